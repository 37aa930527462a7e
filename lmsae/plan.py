"""The plan: rows -> specs -> passes. Pure but for looking up what names mean at this moment; nothing heavy is imported.

Both engines, `lmsae plan` and `lmsae run` call `make_plan`; whatever they run, they run these specs.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lmsae import catalog
from lmsae.artifact import Artifacts, Spec, write_atomically
from lmsae.catalog import SaeSection, SectionFault
from lmsae.config import Frozen, canonical_json, key_of
from lmsae.digests import DigestCache
from lmsae.errors import ConfigError, DamagedArtifact, Fault, LmsaeError
from lmsae.lm import source as models
from lmsae.lm.hook_points import max_context, require
from lmsae.lm.source import ResolvedModel
from lmsae.sheet import Row, section_of
from lmsae.stages import STAGES, evaluate, init, norm, report, tokenize, train
from lmsae.stages import activations as activations_stage
from lmsae.stages.activations import LMConfig
from lmsae.text import source as texts
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import require_context
from lmsae.training.config import TrainConfig

ROW_STAGES = ("tokenize", "activations", "norm", "init", "train", "eval")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row and the spec of each of its stages."""

    row: Row
    specs: Mapping[str, Spec]

    def reported(self) -> report.ReportRow:
        """What the report is told of it: where it belongs, and every setting that was written for this row."""
        activations = self.specs["activations"].config
        settings = {
            "model.name": activations["model"]["source"]["name"],
            "dataset.name": self.specs["tokenize"].config["dataset"]["name"],
            "sae.hook_point": activations["hook_point"],
            "sae.architecture": self.row.section("sae").get("architecture"),
            **{name: cell.value for name, cell in self.row.cells.items() if cell.is_own},
        }
        references = {stage: spec.reference for stage, spec in self.specs.items()}
        return report.ReportRow(name=self.row.name, artifacts=references, settings=settings)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep wants."""

    rows: Sequence[PlannedRow]

    @cached_property
    def report(self) -> Spec:
        """The spec of the sweep's report."""
        config = report.Config(rows=tuple(row.reported() for row in self.rows))
        inputs = {row.row.name: row.specs["eval"].reference for row in self.rows}
        return _spec("report", config, inputs)

    def specs(self, stage: str) -> list[Spec]:
        """The stage's specs, each once, in the order of the rows."""
        if stage == "report":
            return [self.report]
        return list({row.specs[stage].key: row.specs[stage] for row in self.rows}.values())

    def passes(self, stage: str, together: int) -> list[list[Spec]]:
        """The stage's specs, grouped into what one job makes: in one forward pass, or over one stream of activations.

        Depends on the sweep alone and never on what is on disk, so that every engine sees the same jobs at any time.
        """
        groups: dict[Any, list[Spec]] = {}
        for spec in self.specs(stage):
            groups.setdefault(PASS_OF.get(stage, _alone)(spec), []).append(spec)
        limit = together if stage in ("train", "eval") else len(self.rows)
        return [group[i : i + limit] for group in groups.values() for i in range(0, len(group), limit)]

    def write_specs(self, artifacts: Artifacts) -> None:
        """Write every spec where its artifact will be."""
        for stage in STAGES:
            for spec in self.specs(stage):
                artifacts.add(spec)

    def write(self, artifacts: Artifacts, together: int) -> None:
        """Write every spec, and `plan/<stage>.json`, the passes of each stage: what commands without keys work on."""
        self.write_specs(artifacts)
        folder = artifacts.root / "plan"
        folder.mkdir(parents=True, exist_ok=True)
        for stage in STAGES:
            passes = [[spec.reference for spec in group] for group in self.passes(stage, together)]
            text = json.dumps({"stage": stage, "passes": passes}, indent=1) + "\n"
            if not (folder / f"{stage}.json").exists() or (folder / f"{stage}.json").read_text() != text:
                write_atomically(folder / f"{stage}.json", text)


def passes_on_disk(stage: str, artifacts: Artifacts) -> list[list[str]]:
    """The references that the last written plan wants of a stage, by pass."""
    path = artifacts.root / "plan" / f"{stage}.json"
    if not path.exists():
        raise ConfigError([Fault(str(path), None, None, "there is no plan yet; write one with `lmsae plan`")])
    try:
        return json.loads(path.read_text())["passes"]
    except ValueError:
        raise ConfigError([Fault(str(path), None, None, "cannot be read; write it again with `lmsae plan`")]) from None


def make_plan(rows: Iterable[Row], artifacts: Artifacts, faults: Iterable[Fault] = ()) -> Plan:
    """Resolve every row to its specs. Raises ConfigError with the faults of all rows at once, after those `faults`
    that were found in reading them.

    Where a row's tokens are on disk already, asking for more than there are is a fault too.
    """
    resolver = _Resolver(artifacts)
    faults = list(faults)
    planned = []
    for row in rows:
        specs = resolver.specs(row, faults)
        if specs is not None:
            _check_tokens(row, specs, artifacts, faults)
            planned.append(PlannedRow(row, specs))
    resolver.digests.save()
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return Plan(planned)


@dataclass
class _Resolver:
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
        specs["tokenize"] = _spec("tokenize", tokenize.Config(dataset=dataset, tokenizer=tokenizer, packing=packing))
        tokens = {"tokens": specs["tokenize"].reference}
        capture = activations_stage.Config(
            **sections["activations"].model_dump(), model=lm, hook_point=section.hook_point, width=width
        )
        specs["activations"] = _spec("activations", capture, tokens)
        inputs = {**tokens, "activations": specs["activations"].reference}
        specs["norm"] = _spec("norm", norm.Config(), inputs)
        inputs |= {"norm": specs["norm"].reference}
        start = init.Config(**sections["init"].model_dump(), **shared, unit_norm_decoder=objective.unit_norm_decoder)
        specs["init"] = _spec("init", start, inputs)
        inputs |= {"init": specs["init"].reference}
        learning = train.Config(**sections["train"].model_dump(), **shared, objective=objective)
        specs["train"] = _spec("train", learning, inputs)
        scoring = evaluate.Config(**sections["eval"].model_dump(), model=lm, hook_point=section.hook_point)
        scored = {**tokens, "norm": specs["norm"].reference, "dictionary": specs["train"].reference}
        specs["eval"] = _spec("eval", scoring, scored)
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


def _spec(stage: str, config: Frozen, inputs: Mapping[str, str] | None = None) -> Spec:
    dumped = config.model_dump(mode="json")
    return Spec(stage=stage, version=STAGES[stage].version, config=dumped, inputs=dict(inputs or {}))


def _check_tokens(row: Row, specs: Mapping[str, Spec], artifacts: Artifacts, faults: list[Fault]) -> None:
    counts = token_counts(specs["tokenize"], artifacts)
    if counts is not None:
        config = TrainConfig.model_validate({name: specs["train"].config[name] for name in TrainConfig.model_fields})
        try:
            config.require_tokens(counts["train_usable"])
        except LmsaeError as error:
            faults.append(row.fault("train.tokens", str(error)))


def token_counts(spec: Spec, artifacts: Artifacts) -> dict[str, int] | None:
    """What the tokenize stage counted, or None while it has not."""
    artifact = artifacts[spec.reference]
    if not artifact.is_finished:
        return None
    path = artifact.path / tokenize.COUNTS
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        message = f"{path}: it is not what was written. Delete {artifact.path} and run the workflow again"
        raise DamagedArtifact(f"{message}; `lmsae verify` looks at every artifact.") from None


def _alone(spec: Spec) -> str:
    return spec.key


def _same(*names: str) -> Callable[[Spec], str]:
    def identity(spec: Spec) -> str:
        config = {name: spec.config[name] for name in names}
        return key_of(canonical_json([config, spec.inputs["tokens"]]))

    return identity


PASS_OF: dict[str, Callable[[Spec], Any]] = {
    "activations": _same("model", "batch_contexts"),
    # Starting weights take seconds, as starting a job does.
    "init": lambda spec: spec.inputs["activations"],
    "eval": _same("model", "tokens", "batch_contexts"),
    "train": lambda spec: train.stream_of(spec.config, spec.inputs),
}
