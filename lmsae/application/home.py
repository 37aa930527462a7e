"""The home of a dictionary: the models and hook points that it belongs to, and how text becomes tokens there."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.errors import ShapeError, SourceError
from lmsae.interop.finished import Origin
from lmsae.lm import Backend, Dtype, read_config, resolve
from lmsae.lm.hook_points import require
from lmsae.lm.resolving import ResolvedModel, default_tokenizer
from lmsae.stages.models import LMConfig
from lmsae.stages.sites import Place, Sites, inputs_from
from lmsae.text.packing import TokenizeConfig
from lmsae.vectors.sources import is_source, path_of


@dataclass(frozen=True)
class Home:
    """The models of a dictionary, the places that it reads and writes, and the tokenizer and packing of its text.

    What nobody has told is empty; without a tokenizer it is that of the first model.
    """

    models: tuple[LMConfig, ...] = ()
    reads: tuple[Place, ...] = ()
    writes: tuple[Place, ...] = ()
    tokenizer: ResolvedModel | None = None
    packing: TokenizeConfig = field(default_factory=TokenizeConfig)

    @property
    def tokenizer_model(self) -> ResolvedModel:
        """The model whose tokenizer makes tokens of text."""
        if self.tokenizer is not None:
            return self.tokenizer
        source = self.models[0].source
        lender = default_tokenizer(source)
        return source if lender is None else resolve(lender)


@dataclass(frozen=True)
class Given:
    """The part of a home that the user names, over what the dictionary says itself."""

    model: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    backend: Backend | None = None
    dtype: Dtype | None = None

    def over(self, home: Home) -> Home:
        """A home with what is given in the place of its own."""
        models = home.models
        if self.model is not None:
            like = models[0] if models else LMConfig(source=_NOWHERE, backend="huggingface", dtype="float32")
            models = (like.model_copy(update={"source": resolve(self.model)}),)
            home = replace(home, tokenizer=None)
        changes = {name: value for name in ("backend", "dtype") if (value := getattr(self, name)) is not None}
        models = tuple(model.model_copy(update=changes) for model in models)
        reads, writes = _places(self.reads) or home.reads, _places(self.writes) or home.writes
        return replace(home, models=models, reads=reads, writes=writes)


_NOWHERE = ResolvedModel(name="", revision="")


def home_of_spec(spec: Spec, artifacts: Artifacts) -> Home | None:
    """The home that the spec of a training or an evaluation tells of; None of an import, which tells of none."""
    if "places" in spec.config:
        models = [LMConfig.model_validate(one) for one in spec.config["models"]]
        places = [Place.model_validate(one) for one in spec.config["places"]]
    else:
        captures = [artifacts[one].spec().config for one in inputs_from("activations", spec.inputs)]
        if not captures:
            return None
        each = [LMConfig.model_validate(capture["model"]) for capture in captures]
        models = list(dict.fromkeys(each))
        places = [
            Place(model=models.index(model), hook_point=capture["hook_point"])
            for model, capture in zip(each, captures, strict=True)
        ]
    sites, tokens = Sites.model_validate(spec.config["sites"]), artifacts[spec.inputs["tokens"]].spec().config
    named = tokens.get("tokenizer")  # of own activations none
    return Home(
        tuple(models),
        tuple(places[number] for number in sites.reads),
        tuple(places[number] for number in sites.writes),
        ResolvedModel.model_validate(named) if named else None,
        TokenizeConfig.model_validate(tokens["packing"]),
    )


def home_of_origin(origin: Origin) -> Home:
    """The home of a dictionary from elsewhere, as far as it names one. Models are pinned to what they are now."""
    models = [LMConfig(source=resolve(name), backend="huggingface", dtype="float32") for name in origin.models]
    return Home(tuple(models), _places(origin.reads), _places(origin.writes))


def require_fit(name: str, models: Sequence[LMConfig], places: Sequence[Place], widths: Sequence[int]) -> None:
    """Raise HookPointError if a model lacks a place of a dictionary, ShapeError if the place has another width, and
    SourceError if own activations stand in the model's place."""
    if len(places) != len(widths):
        told = " ".join(place.hook_point for place in places)
        raise ShapeError(f"{name} has {len(widths)} hook points on a side, and {len(places)} are named: {told}.")
    for place, width in zip(places, widths, strict=True):
        source = models[place.model].source
        if is_source(source):
            raise SourceError(f"{name} is of own activations, {path_of(source)}: there is no language model beside it.")
        found = require(place.hook_point, read_config(source))
        if found != width:
            raise ShapeError(
                f"{place.hook_point} of {source.name} has width {found:,}, and {name} has {width:,} there. Name the "
                "model and the hook point that it was trained on."
            )


def _places(names: Sequence[str]) -> tuple[Place, ...]:
    return tuple(Place(model=0, hook_point=name) for name in names)
