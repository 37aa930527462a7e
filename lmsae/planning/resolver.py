"""The resolver: a row -> what its names mean at this moment. Nothing heavy is imported."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.digests import DigestCache
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ConfigError, Fault, LmsaeError
from lmsae.interop.finished import Finished
from lmsae.lm.hook_points import is_module, require
from lmsae.lm.resolving import ResolvedModel, default_tokenizer, read_config, require_usable
from lmsae.lm.resolving import resolve as resolve_model
from lmsae.planning.adopting import INIT_FROM, SAE_FROM, adopt_finished, adopt_start, named_sources
from lmsae.planning.cells import Cell, Row
from lmsae.planning.checks import CHECKS
from lmsae.planning.dictionaries import HOOK_POINTS, SaeSection
from lmsae.planning.draft import Draft
from lmsae.planning.finder import Finder
from lmsae.planning.from_files import find_files, name_hook_point, reads_files
from lmsae.planning.places import Subject, Text, find_places, widths_of_sides
from lmsae.planning.remembering import Memory
from lmsae.planning.sections import RowReader, section_of, take_finished
from lmsae.planning.sheet import SAE
from lmsae.planning.specs import Remembered
from lmsae.runtime.version import __version__
from lmsae.stages import divide, init, tokenize, train
from lmsae.stages.activations import ActivationsSection
from lmsae.stages.models import LMConfig, ModelSection
from lmsae.stages.row import ResolvedRow, named_settings
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
        self.texts = Remembered()
        """The configs that stages make of rows."""
        self._found: dict[Hashable, object] = {}
        self._memory = Memory()
        self._rows = RowReader(self._memory)

    def share(self, columns: frozenset[str]) -> frozenset[str]:
        """The same columns: of all rows that have them one object."""
        return self._rows.share(columns)

    def settings(self, row: ResolvedRow) -> Sequence[Mapping[str, Any]]:
        """The settings of a row, by its parts."""

        def named(name: str, part: Frozen) -> Mapping[str, Any]:
            return self._memory.of_objects(("settings", name), (part,), lambda: named_settings(name, part))

        return tuple([named(name, part) for name, part in row.described()])

    def resolve(self, row: Row, faults: list[Fault]) -> ResolvedRow | None:
        """All that a row means, or None after adding to `faults` what is wrong with it."""
        draft = Draft(row, faults)
        draft.learn("written_columns", self._rows.own_columns(row))
        finished = self._find_finished(draft)
        if draft.is_refused:
            return None
        is_trained = SAE_FROM not in named_sources(row)
        sections = self._rows.read_sections(draft, () if is_trained else _OF_TRAINING)
        activations = section_of(sections, ActivationsSection)
        if activations and reads_files(activations):
            draft.row = name_hook_point(draft.row, activations)
        sae, parts = self._rows.read_sae(draft)
        found = self._find_subject(draft, sections, sae)
        places, widths = found.places, found.widths
        reads, writes = widths_of_sides(places, widths)
        known = places is not None and all(widths)
        if finished is not None and not is_trained:
            built = take_finished(draft, finished, reads, writes, known)
        else:
            built = self._rows.assemble(draft, sae, parts, reads, writes)
        draft.learn("start", finished if is_trained else None)
        draft.learn("places", places if known else None)
        draft.run(CHECKS, self._memory)
        if draft.is_refused or not (sae and found.models and found.tokenizer and places and built):
            return None
        sections = {**self._rows.settle({**sections, **found.sections}, built[0], is_trained), SAE: sae}
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
        draft.learn("token_counts", self._count_tokens(resolved))
        draft.run(CHECKS, self._memory)
        return None if draft.is_refused else resolved

    def _find_subject(self, draft: Draft, sections: Mapping[str, Frozen], sae: SaeSection | None) -> Subject:
        """The subject that the row names, looked up once for all rows with the same sections."""
        kinds = (ActivationsSection, TokenizeSection, ModelSection, DatasetConfig)
        read = (sae, *(section_of(sections, kind) for kind in kinds))
        looked_up = list[Subject]()

        def look_up() -> tuple[Subject, Mapping[str, object]] | None:
            before = dict(draft.known)
            looked_up.append(self._look_up(draft, sections, sae))
            learned = {name: value for name, value in draft.known.items() if before.get(name) is not value}
            return None if draft.is_refused else (looked_up[0], learned)

        found = self._memory.of_objects("subject", read, look_up)
        if found is None:
            return looked_up[0]
        draft.known |= found[1]
        return found[0]

    def _count_tokens(self, row: ResolvedRow) -> Mapping[str, Any] | None:
        """The counts of the row's tokens; None while there are none."""
        stages = (tokenize.STAGE, divide.STAGE)
        ((stage, text),) = ((stage, text) for stage in stages for text in self.texts(stage, row))
        return self._find(("counts", text), lambda: tokenize.token_counts(stage.spec(text, {}), self.artifacts))

    def _look_up(self, draft: Draft, sections: Mapping[str, Frozen], sae: SaeSection | None) -> Subject:
        """The subject that the row names: a model, its text and places in it, or files in their place."""
        activations, settings = section_of(sections, ActivationsSection), section_of(sections, TokenizeSection)
        if activations is not None and reads_files(activations):
            return self._look_up_files(draft, sae, activations, settings)
        models, named = self._find_models(draft, section_of(sections, ModelSection)), section_of(sections, ModelSection)
        text = self._find_text(draft, section_of(sections, DatasetConfig))
        tokenizer = draft.learn("tokenizer", self._find_tokenizer(draft, settings, models))
        places = find_places(draft, sae, len(models))
        widths = self._find_widths(draft, places, models)
        loaded = [LMConfig(source=one, backend=named.backend, dtype=named.dtype) for one in models] if named else []
        return Subject(loaded, text, tokenizer if text else None, places, widths)

    def _look_up_files(
        self, draft: Draft, sae: SaeSection | None, activations: ActivationsSection, settings: TokenizeSection | None
    ) -> Subject:
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
        if what not in self._found:
            try:
                self._found[what] = look_up()
            except LmsaeError as error:
                self._found[what] = error
        found = self._found[what]
        if isinstance(found, LmsaeError):
            raise found
        return cast(Found, found)


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
    reader = RowReader(memory := Memory())
    built = reader.assemble(draft, *reader.read_sae(draft), reads, writes)
    draft.run(CHECKS, memory)
    if faults or built is None:
        raise ConfigError(faults)
    return built
