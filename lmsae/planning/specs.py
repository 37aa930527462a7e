"""A row that is resolved -> its specs: each stage's share of it, and what it is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmsae.artifacts.artifact import Spec
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.lm.hook_points import layer_of
from lmsae.stages import STAGES, activations, evaluate, init, norm, tokenize, train
from lmsae.stages.activations import Capture, LMConfig
from lmsae.stages.evaluate import Place
from lmsae.stages.sites import Reading, Sites, numbered
from lmsae.training.objective import Objective


@dataclass(frozen=True)
class Places:
    """Where a dictionary reads and writes: hook points of models, and the numbers of their stores."""

    reads: tuple[Place, ...]
    writes: tuple[Place, ...]

    @property
    def all(self) -> list[Place]:
        """Each place once, those read first: the stores in the order of their numbers."""
        return list(dict.fromkeys((*self.reads, *self.writes)))

    @property
    def sites(self) -> Sites:
        """The numbers of the stores read and written."""
        number = {place: n for n, place in enumerate(self.all)}
        return Sites(reads=tuple(number[p] for p in self.reads), writes=tuple(number[p] for p in self.writes))


@dataclass(frozen=True)
class Resolved:
    """All that a row means: its validated sections, its text, models and places, and its dictionary's parts."""

    sections: Mapping[str, Any]
    tokens: tokenize.Config
    models: Sequence[LMConfig]
    places: Places
    widths: Sequence[int]
    dictionary: DictionaryConfig
    objective: Objective

    @property
    def reading(self) -> dict[str, Any]:
        """Which stored tokens are used."""
        return self.sections["activations"].model_dump(include=set(Reading.model_fields))


def specs_of(row: Resolved) -> dict[str, Spec]:
    """The row's specs by stage. Where it has several activations and norms, the second is called `activations.1`, and
    so on."""
    specs = {"tokenize": spec_of("tokenize", row.tokens)}
    _add_captures(specs, row)
    _add_learning(specs, row)
    scoring = evaluate.Config(
        **row.sections["eval"].model_dump(),
        **row.reading,
        models=tuple(row.models),
        places=tuple(row.places.all),
        sites=row.places.sites,
    )
    specs["eval"] = spec_of("eval", scoring, _references(specs, "tokenize", "norm", "train"))
    return specs


def spec_of(stage: str, config: Frozen, inputs: Mapping[str, str] | None = None) -> Spec:
    """The spec of a stage's config and the references of its inputs."""
    dumped = config.model_dump(mode="json")
    return Spec(stage=stage, version=STAGES[stage].version, config=dumped, inputs=dict(inputs or {}))


def _add_captures(specs: dict[str, Spec], row: Resolved) -> None:
    """Add a store of activations, and its moments, for every place."""
    capture = row.sections["activations"].model_dump(include=set(Capture.model_fields))
    tokens = {"tokens": specs["tokenize"].reference}
    for number, (place, width) in enumerate(zip(row.places.all, row.widths, strict=True)):
        model = row.models[place.model]
        config = activations.Config(**capture, model=model, hook_point=place.hook_point, width=width)
        stored = spec_of("activations", config, tokens)
        measured = {**tokens, "activations": stored.reference}
        specs[numbered("activations", number)] = stored
        specs[numbered("norm", number)] = spec_of("norm", norm.Config(**row.reading), measured)


def _add_learning(specs: dict[str, Spec], row: Resolved) -> None:
    """Add the starting weights and the dictionary."""
    stored = _references(specs, "tokenize", "activations")
    shared = {"dictionary": row.dictionary, "sites": row.places.sites, **row.reading}
    layer = spliced = None
    if row.sections["init"].from_model:
        layer = init.Layer(**row.models[0].model_dump(), layer=layer_of(row.places.reads[0].hook_point))
    if row.objective.needs_model:
        written = tuple(place.hook_point for place in row.places.writes)
        spliced = train.Spliced(model=row.models[0], hook_points=written)
    unit_rows = row.objective.unit_norm_decoder
    start = init.Config(**row.sections["init"].model_dump(), **shared, unit_norm_decoder=unit_rows, layer=layer)
    specs["init"] = spec_of("init", start, stored | _references(specs, "norm"))
    learning = train.Config(**row.sections["train"].model_dump(), **shared, objective=row.objective, spliced=spliced)
    specs["train"] = spec_of("train", learning, stored | _references(specs, "init"))


def _references(specs: Mapping[str, Spec], *stages: str) -> dict[str, str]:
    """Inputs from those of a row's specs that are of these stages, under the names that inputs have."""
    return {
        _INPUT_NAMES.get(name, name): spec.reference
        for stage in stages
        for name, spec in specs.items()
        if name.partition(".")[0] == stage
    }


_INPUT_NAMES = {"tokenize": "tokens", "train": "dictionary"}
