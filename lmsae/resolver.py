"""Row -> specs: what a row's names mean at this moment, and each stage's share of it. Nothing heavy is imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmsae import catalog
from lmsae.artifact import Artifacts, Spec
from lmsae.catalog import SaeSection, SectionFault
from lmsae.config import Frozen
from lmsae.digests import DigestCache
from lmsae.errors import Fault, LmsaeError
from lmsae.lm import source as models
from lmsae.lm.hook_points import max_context, require
from lmsae.lm.source import ResolvedModel
from lmsae.sheet import Row, section_of
from lmsae.stages import STAGES, evaluate, init, norm, tokenize, train
from lmsae.stages import activations as activations_stage
from lmsae.stages.activations import LMConfig
from lmsae.text import source as texts
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import require_context


@dataclass
class Resolver:
    """Turns rows into specs, looking each model, dataset and hook point up once."""

    artifacts: Artifacts
    memory: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.digests = DigestCache(self.artifacts.root / ".digests.json")

    def specs(self, row: Row, faults: list[Fault]) -> dict[str, Spec] | None:
        """A row's specs by stage, or None after adding what is wrong to `faults`."""
        before = len(faults)
        sections = {name: self._section(row, name, faults) for name in _PLAIN_SECTIONS}
        sae = self._sae(row, faults)
        model = self._model(row, sections["model"], faults)
        dataset = self._dataset(row, sections["dataset"], faults)
        packed = sections["tokenize"]
        tokenizer = self._tokenizer(row, packed, model, faults)
        if model is not None and packed is not None:
            self._check_context(row, packed, model, faults)
        width = self._width(row, sae, model, faults)
        parts = self._parts(row, sae, width, faults)
        if len(faults) > before or sae is None or parts is None or model is None or packed is None:
            return None
        section, (dictionary, objective) = sae[0], parts
        lm = LMConfig(source=model, backend=sections["model"].backend, dtype=sections["model"].dtype)
        packing = TokenizeConfig(**packed.model_dump(exclude={"tokenizer"}))
        shared = {"dictionary": dictionary, "normalize_activations": section.normalize_activations}
        specs: dict[str, Spec] = {}
        specs["tokenize"] = spec_of("tokenize", tokenize.Config(dataset=dataset, tokenizer=tokenizer, packing=packing))
        tokens = {"tokens": specs["tokenize"].reference}
        capture = activations_stage.Config(
            **sections["activations"].model_dump(), model=lm, hook_point=section.hook_point, width=width
        )
        specs["activations"] = spec_of("activations", capture, tokens)
        inputs = {**tokens, "activations": specs["activations"].reference}
        specs["norm"] = spec_of("norm", norm.Config(), inputs)
        inputs |= {"norm": specs["norm"].reference}
        start = init.Config(**sections["init"].model_dump(), **shared, unit_norm_decoder=objective.unit_norm_decoder)
        specs["init"] = spec_of("init", start, inputs)
        inputs |= {"init": specs["init"].reference}
        learning = train.Config(**sections["train"].model_dump(), **shared, objective=objective)
        specs["train"] = spec_of("train", learning, inputs)
        scoring = evaluate.Config(**sections["eval"].model_dump(), model=lm, hook_point=section.hook_point)
        scored = {**tokens, "norm": specs["norm"].reference, "dictionary": specs["train"].reference}
        specs["eval"] = spec_of("eval", scoring, scored)
        return specs

    def _section(self, row: Row, name: str, faults: list[Fault]) -> Any:
        return section_of(row, name, row.section(name), faults)

    def _sae(self, row: Row, faults: list[Fault]) -> tuple[SaeSection, dict[str, Any], frozenset[str]] | None:
        """The common `sae.*` columns, those of the parts, and which of the latter stand in the row itself."""
        given = row.section("sae")
        try:
            values = catalog.with_defaults(given)
        except SectionFault as fault:
            faults.append(row.fault(f"sae.{fault.column}", fault.message))
            return None
        common = {name: value for name, value in values.items() if name in SaeSection.model_fields}
        pieces = {name: value for name, value in values.items() if name not in common and value is not None}
        section = section_of(row, "sae", common, faults)
        written = frozenset(name for name in given if name in pieces and row.cells[f"sae.{name}"].row is not None)
        return None if section is None else (section, pieces, written)

    def _model(self, row: Row, section: Any, faults: list[Fault]) -> ResolvedModel | None:
        if section is None:
            return None
        return self._named_model(row, "model.name", section.name, section.revision, faults)

    def _tokenizer(self, row: Row, section: Any, model: ResolvedModel | None, faults: list[Fault]) -> Any:
        if section is None or section.tokenizer is None:
            return model
        return self._named_model(row, "tokenize.tokenizer", section.tokenizer, None, faults)

    def _named_model(self, row: Row, column: str, name: str, revision: str | None, faults: list[Fault]) -> Any:
        look_up = lambda: models.resolve(name, revision, digest_of_file=self.digests.of_file)  # noqa: E731
        return self._once(("model", name, revision), look_up, row, column, faults)

    def _dataset(self, row: Row, section: Any, faults: list[Fault]) -> Any:
        if section is None:
            return None
        look_up = lambda: texts.resolve(section, self.digests.cached)  # noqa: E731
        return self._once(("dataset", section), look_up, row, "dataset.name", faults)

    def _width(self, row: Row, sae: Any, model: ResolvedModel | None, faults: list[Fault]) -> int:
        if sae is None or model is None:
            return 0
        name = sae[0].hook_point
        look_up = lambda: require(name, models.read_config(model))  # noqa: E731
        return self._once(("width", name, model), look_up, row, "sae.hook_point", faults) or 0

    def _check_context(self, row: Row, section: Any, model: ResolvedModel, faults: list[Fault]) -> None:
        size = section.context_size
        check = lambda: require_context(size, max_context(models.read_config(model)))  # noqa: E731
        self._once(("context", size, model), check, row, "tokenize.context_size", faults)

    def _parts(self, row: Row, sae: Any, width: int, faults: list[Fault]) -> Any:
        if sae is None:
            return None
        try:
            section, pieces, written = sae
            return catalog.resolve(section, pieces, written, width or _UNKNOWN_WIDTH)
        except SectionFault as fault:
            faults.append(row.fault(f"sae.{fault.column}" if fault.column else None, fault.message))
            return None

    def _once(self, what: Any, look_up: Callable[[], Any], row: Row, column: str, faults: list[Fault]) -> Any:
        """The result of a look-up that many rows share, or None after adding its error as a fault of this row."""
        if what not in self.memory:
            try:
                self.memory[what] = look_up()
            except LmsaeError as error:
                self.memory[what] = error
        found = self.memory[what]
        if isinstance(found, LmsaeError):
            faults.append(row.fault(column, str(found)))
            return None
        return found


# Stands in for the width of a hook point that is at fault itself: no k is beyond its multiples.
_UNKNOWN_WIDTH = 1 << 30
_PLAIN_SECTIONS = ("model", "dataset", "tokenize", "activations", "init", "train", "eval")


def spec_of(stage: str, config: Frozen, inputs: Mapping[str, str] | None = None) -> Spec:
    """The spec of a stage's config and the references of its inputs."""
    dumped = config.model_dump(mode="json")
    return Spec(stage=stage, version=STAGES[stage].version, config=dumped, inputs=dict(inputs or {}))
