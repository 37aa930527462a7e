"""A row of the sweep as stages see it: resolved, when its specs are made; and planned, with its specs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

from pydantic_core import to_jsonable_python

from lmsae.artifacts.artifact import Spec
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.interop.finished import Finished
from lmsae.lm import ResolvedModel
from lmsae.stages.models import LMConfig, ModelSection
from lmsae.stages.sites import Places
from lmsae.text.dataset import DatasetConfig, ResolvedDataset, ResolvedMixture
from lmsae.training.objective import Objective

Section = TypeVar("Section", bound=Frozen)


class InFiles(NamedTuple):
    """The number of contexts in files of own activations, each of `tokenize.context_size` vectors; whether vectors
    stand at positions there, or contexts are cut from them; and the files of their token ids, if there are any."""

    contexts: int
    has_positions: bool
    token_ids: ResolvedModel | None = None


@dataclass(frozen=True)
class ResolvedRow:
    """All that a row means at this moment: its sections, text, models, hook points and dictionary."""

    sections: Mapping[str, Frozen]
    text: ResolvedDataset | ResolvedMixture | None
    """None if it reads own activations."""
    tokenizer: ResolvedModel
    models: Sequence[LMConfig]
    places: Places
    widths: Sequence[int]
    """Of `places.all`."""
    dictionary: DictionaryConfig
    objective: Objective
    finished: Finished | None = None
    """The dictionary that it evaluates or, if it `is_trained`, starts from."""
    is_trained: bool = True
    in_files: InFiles | None = None
    """The contexts in its files of own activations, if it reads any."""

    @property
    def token_ids(self) -> ResolvedModel | None:
        """The files of token ids beside its own activations, if it reads any."""
        return self.in_files.token_ids if self.in_files else None

    def section(self, kind: type[Section]) -> Section:
        """The row's section of a class: its columns, validated."""
        if kind not in self._by_kind:
            self._by_kind[kind] = next(section for section in self.sections.values() if isinstance(section, kind))
        return cast(Section, self._by_kind[kind])

    @cached_property
    def _by_kind(self) -> dict[type[Frozen], Frozen]:
        return {}

    def fields(self, kind: type[Frozen]) -> dict[str, Any]:
        """The values of those columns that a class has, from the row's section of that class."""
        return self.section(kind).model_dump(include=set(kind.model_fields))

    def described(self) -> list[tuple[str, Frozen]]:
        """All that has settings of the row, each with the first part of their names: its sections, and the parts and
        losses of its dictionary. Of own activations model and text mean nothing."""
        idle = (DatasetConfig, ModelSection) if self.text is None else ()
        parts = (self.dictionary.geometry, self.dictionary.act_fn, *self.objective.losses)
        meant = [(name, section) for name, section in self.sections.items() if not isinstance(section, idle)]
        return [*meant, *(("sae", part) for part in parts)]


def named_settings(name: str, part: Frozen) -> dict[str, Any]:
    """The settings of a section or part by dotted name, those without a value too, and those that its identity leaves
    out at their defaults."""
    fields = part.model_dump(mode="json")
    left_out = type(part).model_fields.keys() - fields.keys()
    fields |= {field: to_jsonable_python(getattr(part, field)) for field in left_out}
    return {f"{name}.{field}": value for field, value in fields.items() if field != "kind"}


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row and its specs, by stage. A stage of which a row has several calls the second `activations.1`, and so on."""

    name: str
    parts: Sequence[Mapping[str, Any]]
    """The settings of its sections and parts, which many rows share."""
    given: frozenset[str]
    """The columns that the user wrote, for this row or for all."""
    specs: Mapping[str, Spec]
    finished: Finished | None = None
    """The dictionary that it evaluates or starts from, if it names one."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that has a value, by dotted name, defaults too."""
        named: dict[str, Any] = {}
        for part in self.parts:
            named |= part
        return {name: value for name, value in named.items() if value is not None}

    def of(self, stage: str) -> list[Spec]:
        """The row's specs of one stage."""
        return [spec for spec in self.specs.values() if spec.stage == stage]

    @property
    def dictionary(self) -> Spec:
        """The spec of its dictionary, which training makes, or the stage that stands for it: what `eval` takes."""
        from lmsae.stages import DICTIONARIES  # whose modules import this one

        return next(spec for stage in DICTIONARIES for spec in self.of(stage))

    @property
    def tokens(self) -> Spec:
        """The spec of its tokens, or of the division of its own activations."""
        return next(spec for spec in self.specs.values() if "packing" in spec.config)

    def lineage(self, *specs: Spec) -> dict[str, str]:
        """The references of some of its specs, and of all that those are made from, by name."""
        wanted = {spec.reference for spec in specs}
        lineage = {}
        for name, spec in reversed([*self.specs.items()]):  # what is made from others comes behind them
            if spec.reference in wanted:
                wanted |= {*spec.inputs.values()}
                lineage[name] = spec.reference
        return lineage
