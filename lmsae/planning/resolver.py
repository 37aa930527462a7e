"""Row -> specs: what a row's names mean at this moment. Nothing heavy is imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.artifacts.digests import DigestCache
from lmsae.errors import Fault, LmsaeError
from lmsae.geometry.config import GEOMETRIES
from lmsae.initialization import layer_weights
from lmsae.initialization.config import fault as initial_fault
from lmsae.lm import resolving as models_of
from lmsae.lm.hook_points import max_context, require
from lmsae.lm.resolving import ResolvedModel
from lmsae.planning import catalog
from lmsae.planning.catalog import SaeSection, SectionFault
from lmsae.planning.combinations import idle
from lmsae.planning.sheet import Row, section_of
from lmsae.planning.specs import Places, Resolved, specs_of
from lmsae.stages import tokenize
from lmsae.stages.activations import LMConfig
from lmsae.stages.evaluate import Place
from lmsae.text import resolving as texts
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
        """A row's specs by stage, or None after adding what is wrong to `faults`.

        Where a row has several activations and norms, the second is called `activations.1`, and so on.
        """
        before = len(faults)
        sections = {name: self._section(row, name, faults) for name in _PLAIN_SECTIONS}
        sae = self._sae(row, faults)
        models = self._models(row, sections["model"], faults)
        dataset = self._dataset(row, sections["dataset"], faults)
        packed = sections["tokenize"]
        tokenizer = self._tokenizer(row, packed, models[0] if models else None, faults)
        if packed is not None:
            for model in models:
                self._check_context(row, packed, model, faults)
            _check_positions(row, packed, sections["activations"], faults)
        _check_live(row, sections["activations"], faults)
        places = self._places(row, sae, models, faults)
        widths = self._widths(row, places, models, faults)
        parts = self._parts(row, sae, places, widths, faults)
        if parts is not None and places is not None:
            self._check_learning(row, sections, parts, faults)
            if len(faults) == before:
                self._check_model_use(row, sections, parts, places, models, faults)
        if len(faults) > before or packed is None or parts is None or places is None:
            return None
        packing = TokenizeConfig(**packed.model_dump(exclude={"tokenizer"}))
        tokens = tokenize.Config(dataset=dataset, tokenizer=tokenizer, packing=packing)
        backend, dtype = sections["model"].backend, sections["model"].dtype
        lms = [LMConfig(source=model, backend=backend, dtype=dtype) for model in models]
        return specs_of(Resolved(sections, tokens, lms, places, widths, *parts))

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

    def _models(self, row: Row, section: Any, faults: list[Fault]) -> list[ResolvedModel]:
        """The model and the further ones that read the same tokens, those that can be found."""
        if section is None:
            return []
        found = [self._named_model(row, "model.name", section.name, section.revision, faults)]
        for other in section.others:
            name, _, revision = other.partition("@")
            found.append(self._named_model(row, "model.others", name, revision or None, faults))
        return [] if None in found else found

    def _tokenizer(self, row: Row, section: Any, model: ResolvedModel | None, faults: list[Fault]) -> Any:
        named = section and (section.tokenizer or (model and models_of.default_tokenizer(model)))
        return self._named_model(row, "tokenize.tokenizer", named, None, faults) if named else model

    def _named_model(self, row: Row, column: str, name: str, revision: str | None, faults: list[Fault]) -> Any:
        look_up = lambda: models_of.resolve(name, revision, digest_of_file=self.digests.digest_file)  # noqa: E731
        return self._once(("model", name, revision), look_up, row, column, faults)

    def _dataset(self, row: Row, section: Any, faults: list[Fault]) -> Any:
        if section is None:
            return None
        look_up = lambda: texts.resolve(section, self.digests.look_up)  # noqa: E731
        return self._once(("dataset", section), look_up, row, "dataset.name", faults)

    def _places(self, row: Row, sae: Any, models: list[ResolvedModel], faults: list[Fault]) -> "Places | None":
        """Where the row's dictionary reads and writes: every hook point of every model."""
        if sae is None or not models:
            return None
        try:
            reads, writes = catalog.places(sae[0])
        except SectionFault as fault:
            faults.append(row.fault(f"sae.{fault.column}", fault.message))
            return None
        kind = sae[0].geometry or "sae"
        if len(models) > 1 and (reads != writes or GEOMETRIES[kind].one_each):
            message = f"a {kind} reads one model; only a crosscoder shares its latents between several"
            faults.append(row.fault("model.others", message))
            return None
        every = lambda names: tuple(Place(model=m, hook_point=name) for m in range(len(models)) for name in names)  # noqa: E731
        return Places(every(reads), every(writes))

    def _widths(self, row: Row, places: "Places | None", models: list[ResolvedModel], faults: list[Fault]) -> list[int]:
        """The width of every place, 0 where its hook point is at fault."""
        if places is None:
            return []
        widths = []
        for place in places.all:
            name, model = place.hook_point, models[place.model]
            look_up = lambda name=name, model=model: require(name, models_of.read_config(model))  # noqa: E731
            column = next(c for c in HOOK_POINTS if name in (row.section("sae").get(c) or ""))
            widths.append(self._once(("width", name, model), look_up, row, f"sae.{column}", faults) or 0)
        return widths

    def _check_context(self, row: Row, section: Any, model: ResolvedModel, faults: list[Fault]) -> None:
        size = section.context_size
        check = lambda: require_context(size, max_context(models_of.read_config(model)))  # noqa: E731
        self._once(("context", size, model), check, row, "tokenize.context_size", faults)

    def _parts(self, row: Row, sae: Any, places: "Places | None", widths: list[int], faults: list[Fault]) -> Any:
        if sae is None:
            return None
        section, pieces, written = sae
        if places is None:
            reads = writes = (_UNKNOWN_WIDTH,)
        else:
            known = widths if all(widths) else [_UNKNOWN_WIDTH] * len(widths)
            reads, writes = (tuple(known[n] for n in numbers) for numbers in (places.sites.reads, places.sites.writes))
        try:
            return catalog.resolve(section, pieces, written, reads, writes)
        except SectionFault as fault:
            # A fault of the geometry's name has been met already, in looking for its hook points.
            new = row.fault(f"sae.{fault.column}" if fault.column else None, fault.message)
            faults.extend(() if new in faults else (new,))
            return None

    def _check_learning(self, row: Row, sections: Mapping[str, Any], parts: Any, faults: list[Fault]) -> None:
        """What starting weights and training cannot be together with the row's dictionary."""
        dictionary, objective = parts
        if sections["init"] is not None:
            impossible = initial_fault(sections["init"], dictionary, objective.unit_norm_decoder)
            if impossible:
                faults.append(row.fault(f"init.{impossible[0]}", impossible[1]))
        if sections["train"] is not None:
            for column, message in sections["train"].refusals(dictionary, objective.unit_norm_decoder):
                faults.append(row.fault(column, message))
        if sections["init"] is not None and sections["train"] is not None:
            for column, message in idle(sections["init"], sections["train"], dictionary, objective):
                # Values that all rows share, and `null`, may mean nothing to some rows.
                cell = row.cells.get(column)
                if cell is not None and cell.row is not None and cell.value is not None:
                    faults.append(row.fault(column, message))

    def _check_model_use(
        self,
        row: Row,
        sections: Mapping[str, Any],
        parts: Any,
        places: "Places",
        models: list[ResolvedModel],
        faults: list[Fault],
    ) -> None:
        """What initialization and training cannot have of the language model: its weights, or runs of it."""
        dictionary, objective = parts
        if sections["init"].from_model:
            read, written = places.reads[0].hook_point, places.writes[0].hook_point
            config = models_of.read_config(models[0])
            why = layer_weights.fault(dictionary.geometry.kind, read, written, config)
            if why is None and dictionary.geometry.kind == "lorsa":
                why = layer_weights.heads_fault(dictionary.geometry, config)
            faults.extend([row.fault("init.from_model", why)] if why else [])
        if objective.needs_model and len(models) > 1:
            kinds = " and ".join(loss.kind for loss in objective.losses if "model" in loss.needs)
            faults.append(row.fault("sae.losses", f"{kinds} runs one model, not several; leave model.others empty"))
        batch, context = sections["train"].batch_size, sections["tokenize"].context_size
        if batch < context and (objective.needs_model or dictionary.geometry.grain == "context"):
            message = f"{batch:,} tokens hold no whole context of {context:,} (tokenize.context_size), which this row "
            faults.append(row.fault("train.batch_size", f"{message}trains on; raise it"))

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


def _check_positions(row: Row, packed: Any, section: Any, faults: list[Fault]) -> None:
    if section is None:
        return
    left_out = section.skip_first_positions + section.skip_last_positions
    if left_out >= packed.context_size:
        column = "skip_first_positions" if section.skip_first_positions else "skip_last_positions"
        message = f"{left_out} positions are left out of contexts of {packed.context_size} (tokenize.context_size)"
        faults.append(row.fault(f"activations.{column}", f"{message}; nothing would be left"))
    elif section.skip_first_positions >= packed.context_size - 1:
        message = f"of contexts of {packed.context_size} (tokenize.context_size) only the last position is left, which"
        message = f"{message} has no next token to score; lower it"
        faults.append(row.fault("activations.skip_first_positions", message))


def _check_live(row: Row, section: Any, faults: list[Fault]) -> None:
    if section is not None and section.source == "live" and section.max_norm_factor is not None:
        message = "which tokens have too large a norm must be known before the first is trained on, and with "
        message = f"{message}activations.source live no norms are stored: leave it empty, or set the source to cached"
        faults.append(row.fault("activations.max_norm_factor", message))


# Stands in for all widths where a hook point is at fault itself: as wide as models are, so that no k is beyond its
# multiples, and none of those (expansion_factor is 2^16 at most) is beyond catalog.MOST_LATENTS.
_UNKNOWN_WIDTH = 1 << 14
HOOK_POINTS = ("hook_point", "hook_point_in", "hook_point_out")
_PLAIN_SECTIONS = ("model", "dataset", "tokenize", "activations", "init", "train", "eval")
