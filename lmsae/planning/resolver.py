"""The resolver: a row -> what its names mean at this moment. Nothing heavy is imported."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar, cast

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.digests import DigestCache
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ConfigError, Fault, LmsaeError, suggest
from lmsae.geometry.config import Widths
from lmsae.initialization.config import InitConfig
from lmsae.interop.finished import Finished
from lmsae.lm.hook_points import is_module, require
from lmsae.lm.resolving import ResolvedModel, default_tokenizer, read_config, require_usable
from lmsae.lm.resolving import resolve as resolve_model
from lmsae.planning.adopting import INIT_FROM, SAE_FROM, adopt_finished, adopt_start, named_sources
from lmsae.planning.catalog import CATALOG, with_defaults
from lmsae.planning.cells import Cell, Row
from lmsae.planning.checks import CHECKS
from lmsae.planning.dictionaries import HOOK_POINTS, Parts, SaeSection, assemble, read_parts
from lmsae.planning.draft import Draft
from lmsae.planning.finder import Finder
from lmsae.planning.from_files import find_files, name_hook_point, reads_files
from lmsae.planning.places import Subject, Text, find_places, widths_of_sides
from lmsae.planning.sheet import SAE, SECTIONS, read_section
from lmsae.runtime.version import __version__
from lmsae.stages import divide, init, tokenize, train
from lmsae.stages.activations import ActivationsSection, Capture
from lmsae.stages.models import LMConfig, ModelSection
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Places
from lmsae.stages.tokenize import TokenizeSection
from lmsae.text.dataset import DatasetConfig
from lmsae.text.pinning import resolve as resolve_text
from lmsae.training.objective import Objective
from lmsae.vectors import sources
from lmsae.vectors.headers import Contents, Header

_OF_TRAINING = (*init.STAGE.sections, *train.STAGE.sections)
"""The sections that mean nothing to a dictionary that is finished."""
Found = TypeVar("Found")
Section = TypeVar("Section", bound=Frozen)


class Resolver:
    """Turns rows into resolved ones, and looks up each model, dataset and hook point once."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.digests = DigestCache(artifacts.root)
        self.finder = Finder(artifacts, self.digests)
        self._memory: dict[Hashable, object] = {}

    def resolve(self, row: Row, faults: list[Fault]) -> ResolvedRow | None:
        """All that a row means, or None after adding to `faults` what is wrong with it."""
        draft = Draft(row, faults)
        draft.learn("written_columns", row.own_columns)
        finished = self._find_finished(draft)
        if draft.is_refused:
            return None
        is_trained = SAE_FROM not in named_sources(row)
        sections = _read_sections(draft, () if is_trained else _OF_TRAINING)
        activations = _of(sections, ActivationsSection)
        if activations and reads_files(activations):
            draft.row = name_hook_point(draft.row, activations)
        sae, parts = _read_sae(draft)
        found = self._look_up(draft, sections, sae)
        places, widths = found.places, found.widths
        reads, writes = widths_of_sides(places, widths)
        known = places is not None and all(widths)
        if finished is not None and not is_trained:
            built = _take_finished(draft, finished, reads, writes, known)
        else:
            built = _assemble(draft, sae, parts, reads, writes)
        draft.learn("start", finished if is_trained else None)
        draft.learn("places", places if known else None)
        draft.run(CHECKS)
        if draft.is_refused or not (sae and found.models and found.tokenizer and places and built):
            return None
        sections = {**_settle({**sections, **found.sections}, built[0], is_trained), SAE: sae}
        resolved = ResolvedRow(
            sections,
            found.text,
            found.tokenizer,
            found.models,
            places,
            widths,
            *built,
            finished,
            is_trained,
            found.in_files,
        )
        (tokens,) = (*tokenize.STAGE.specs(resolved, {}), *divide.STAGE.specs(resolved, {}))
        draft.learn("token_counts", tokenize.token_counts(tokens, self.artifacts))
        draft.run(CHECKS)
        return None if draft.is_refused else resolved

    def _look_up(self, draft: Draft, sections: Mapping[str, Frozen], sae: SaeSection | None) -> "Subject":
        """The subject that the row names: a model, its text and places in it, or files in their place."""
        activations, settings = _of(sections, ActivationsSection), _of(sections, TokenizeSection)
        if activations is not None and reads_files(activations):
            return self._look_up_files(draft, sae, activations, settings)
        models, named = self._find_models(draft, _of(sections, ModelSection)), _of(sections, ModelSection)
        text = self._find_text(draft, _of(sections, DatasetConfig))
        tokenizer = draft.learn("tokenizer", self._find_tokenizer(draft, settings, models))
        places = find_places(draft, sae, len(models))
        widths = self._find_widths(draft, places, models)
        loaded = [LMConfig(source=one, backend=named.backend, dtype=named.dtype) for one in models] if named else []
        return Subject(loaded, text, tokenizer if text else None, places, widths)

    def _look_up_files(
        self, draft: Draft, sae: SaeSection | None, activations: ActivationsSection, settings: TokenizeSection | None
    ) -> "Subject":
        def find(path: str, contents: Contents) -> tuple[ResolvedModel, Header]:
            return self._find((contents, path), lambda: sources.resolve(path, self.digests.look_up, contents))

        found = find_files(draft, sae, activations, settings, find)
        if found is None:
            return Subject()
        draft.learn("from_files", found)
        draft.known["tokenize"] = found.tokenize
        loaded = [LMConfig(source=one, backend="huggingface", dtype="float32") for one in found.sources]
        named, settled = found.tokenize.tokenizer, {"tokenize": found.tokenize}
        tokenizer = self._find_model(draft, "tokenize.tokenizer", named, None) if named else loaded[0].source
        return Subject(loaded, None, tokenizer, found.places, found.widths, found.in_files, settled)

    def _find_finished(self, draft: Draft) -> Finished | None:
        """The finished dictionary that a row names, which then fills the row; None if it names none, or after refusing
        it."""
        named = named_sources(draft.row)
        if len(named) > 1:
            message = "sae.from is finished and is not trained, so nothing can start from here: leave one of both empty"
            draft.refuse(INIT_FROM, message)
        if len(named) != 1:
            return None
        ((column, name),) = named.items()
        found = self._find_or_refuse(("dictionary", name), lambda: self.finder.find(name), draft, column)
        if found is not None:
            adopt = adopt_finished if column == SAE_FROM else adopt_start
            draft.row = adopt(draft.row, found, draft.refuse)
        return found

    def _find_models(self, draft: Draft, section: ModelSection | None) -> list[ResolvedModel]:
        """The model and the further ones over the same tokens; none if one cannot be found."""
        if section is None:
            return []
        found = [self._find_usable_model(draft, "model.name", section.name, section.revision)]
        for other in section.others:
            name, _, revision = other.partition("@")
            found.append(self._find_usable_model(draft, "model.others", name, revision or None))
        models = [model for model in found if model is not None]
        if len(models) < len(found):
            return []
        draft.learn(
            "model_configs", [self._find(("config", model), lambda model=model: read_config(model)) for model in models]
        )
        return models

    def _find_model(self, draft: Draft, column: str, name: str, revision: str | None) -> ResolvedModel | None:
        def look_up() -> ResolvedModel:
            return resolve_model(name, revision, digest_of_file=self.digests.digest_file)

        return self._find_or_refuse(("model", name, revision), look_up, draft, column)

    def _find_usable_model(self, draft: Draft, column: str, name: str, revision: str | None) -> ResolvedModel | None:
        """A model that can be run, of which more is asked than of one that only lends its tokenizer."""
        model = self._find_model(draft, column, name, revision)

        def look_up() -> ResolvedModel | None:
            if model is not None:
                require_usable(model)
            return model

        return self._find_or_refuse(("usable model", model), look_up, draft, column)

    def _find_tokenizer(
        self, draft: Draft, section: TokenizeSection | None, models: Sequence[ResolvedModel]
    ) -> ResolvedModel | None:
        """The tokenizer that is named, or else the first model's own."""
        model = models[0] if models else None
        named = section and (section.tokenizer or (model and default_tokenizer(model)))
        return self._find_model(draft, "tokenize.tokenizer", named, None) if named else model

    def _find_text(self, draft: Draft, section: DatasetConfig | None) -> Text | None:
        if section is None:
            return None

        def look_up() -> Text:
            return resolve_text(section, self.digests.look_up)

        return self._find_or_refuse(("dataset", section), look_up, draft, "dataset.name")

    def _find_widths(self, draft: Draft, places: Places | None, models: Sequence[ResolvedModel]) -> list[int]:
        """The width of every place, 0 where its hook point is at fault."""
        widths = []
        for place in places.all if places else ():
            name, model = place.hook_point, models[place.model]

            def look_up(name: str = name, model: ResolvedModel = model) -> int:
                return self._find_width(name, model)

            column = next(c for c in HOOK_POINTS if name in (draft.row.section(SAE).get(c) or ""))
            widths.append(self._find_or_refuse(("width", name, model), look_up, draft, f"sae.{column}") or 0)
        return widths

    def _find_width(self, name: str, model: ResolvedModel) -> int:
        """The width of a hook point. That of a module takes torch, so it is remembered by the model."""
        config = read_config(model)
        nominal = require(name, config)
        if not is_module(name):
            return nominal

        def compute() -> str:
            from lmsae.lm.modules import module_width

            return str(module_width(config, name))

        return int(self.digests.look_up(f"width by {__version__}: {name} {model.model_dump_json()}", compute))

    def _find_or_refuse(self, what: Hashable, look_up: Callable[[], Found], draft: Draft, column: str) -> Found | None:
        """The result of a look-up that many rows share, or None after refusing this row."""
        try:
            return self._find(what, look_up)
        except LmsaeError as error:
            draft.refuse(column, str(error))
            return None

    def _find(self, what: Hashable, look_up: Callable[[], Found]) -> Found:
        """The result of a look-up that many rows share, or its error, which they share too."""
        if what not in self._memory:
            try:
                self._memory[what] = look_up()
            except LmsaeError as error:
                self._memory[what] = error
        found = self._memory[what]
        if isinstance(found, LmsaeError):
            raise found
        return cast(Found, found)


def _of(sections: Mapping[str, Frozen], kind: type[Section]) -> Section | None:
    return next((section for section in sections.values() if isinstance(section, kind)), None)


def _read_sections(draft: Draft, idle: Collection[str]) -> dict[str, Frozen]:
    """The sections of the row that are valid, but for that of the dictionary and those that mean nothing to the row."""
    sections = {}
    for name in (name for name in SECTIONS if name != SAE and name not in idle):
        section = read_section(draft.row, name, draft.row.section(name), draft.refuse)
        if draft.learn(name, section) is not None:
            sections[name] = section
    return sections


def _settle(sections: Mapping[str, Frozen], dictionary: DictionaryConfig, is_trained: bool) -> dict[str, Frozen]:
    """The same sections, with the values that empty columns stand for in a row of this dictionary. A row that is not
    trained stores activations of the calibration split alone."""
    settled = {
        name: section.settled(dictionary) if isinstance(section, InitConfig) else section
        for name, section in sections.items()
    }
    if not is_trained:
        settled |= {
            name: section.model_copy(update={"source": "live"})
            for name, section in sections.items()
            if isinstance(section, Capture) and not reads_files(section)
        }
    return settled


def _take_finished(
    draft: Draft, finished: Finished, reads: Sequence[int], writes: Sequence[int], known: bool
) -> tuple[DictionaryConfig, Objective] | None:
    """The finished dictionary, which has learned by now; None after refusing hook points of other widths."""
    dictionary = finished.content.dictionary
    if known and dictionary.widths != (found := Widths(reads=tuple(reads), writes=tuple(writes))):
        message = f"{finished.name} reads and writes widths {_pair(dictionary.widths)}, and the hook points here have "
        draft.refuse(SAE_FROM, f"{message}{_pair(found)}: name those of the model that it was trained on")
        return None
    return dictionary, Objective(losses=(), unit_norm_decoder=False)


def _pair(widths: Widths) -> str:
    read, written = (" ".join(map(str, side)) for side in (widths.reads, widths.writes))
    return read if read == written else f"{read} -> {written}"


def _read_sae(draft: Draft) -> tuple[SaeSection | None, Parts | None]:
    """The columns of the dictionary that all architectures have, and its parts with their own."""
    given = draft.row.section(SAE)
    architecture = given.get("architecture")
    if architecture is not None and not (isinstance(architecture, str) and architecture in CATALOG):
        hint = suggest(str(architecture), CATALOG)
        message = f"there is no architecture {architecture!r}; there are {', '.join(CATALOG)}{hint}"
        draft.refuse("sae.architecture", message)
        return None, None
    values = with_defaults(given)
    common = {name: value for name, value in values.items() if name in SaeSection.model_fields}
    section = read_section(draft.row, SAE, common, draft.refuse)
    if not isinstance(section, SaeSection):
        return None, None
    columns = {name: value for name, value in values.items() if name not in common and value is not None}
    if values.get("from") is not None:
        return section, None
    draft.learn("own_columns", draft.row.own_columns)
    return draft.learn(SAE, section), draft.learn("parts", read_parts(section, columns, draft.refuse))


def _assemble(
    draft: Draft, sae: SaeSection | None, parts: Parts | None, reads: Sequence[int], writes: Sequence[int]
) -> tuple[DictionaryConfig, Objective] | None:
    """The row's dictionary, for hook points of these widths, and its objective."""
    built = assemble(sae, parts, reads, writes, draft.refuse) if sae is not None and parts is not None else None
    if built is not None:
        draft.learn("dictionary", built[0])
        draft.learn("objective", built[1])
    return built


def dictionary_of(
    columns: Mapping[str, object], reads: Sequence[int], writes: Sequence[int], shared: Collection[str] = ()
) -> tuple[DictionaryConfig, Objective]:
    """The dictionary that columns `sae.*`, named without `sae.`, mean for hook points of these widths, and its
    objective, checked as a row is. Those that are `shared` by all rows need not mean anything to this one.

    Raises ConfigError with all faults.
    """
    cells = {f"{SAE}.{name}": Cell(value, SAE, None if name in shared else SAE) for name, value in columns.items()}
    faults: list[Fault] = []
    draft = Draft(Row(SAE, SAE, cells), faults)
    built = _assemble(draft, *_read_sae(draft), reads, writes)
    draft.run(CHECKS)
    if faults or built is None:
        raise ConfigError(faults)
    return built
