"""Held-out text, and dictionaries beside the models that read it: what eval and training both measure on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from lmsae.artifacts.artifact import SPEC, Artifact
from lmsae.config import Frozen
from lmsae.errors import ConfigError, Fault, NotEnoughTokens
from lmsae.metrics.definitions import group_of
from lmsae.stages.inputs.stored import moments_of
from lmsae.stages.sites import Place, Reading, Sites

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.evaluation.hooked import HookedDictionary, HookPoint
    from lmsae.evaluation.scoring import HeldOutText


PROBES_K = (1, 16)


class EvalSection(Frozen):
    """The columns `eval.*`."""

    tokens: int = Field(
        default=100_000,
        gt=0,
        description="Largest number of held-out tokens to evaluate on, in whole contexts, at least one.",
    )
    batch_contexts: int = Field(default=16, gt=0, description="Number of contexts in one forward pass of the model.")
    probes: tuple[str, ...] = Field(
        default=(),
        description="Data sets of sae-probes to train sparse probes on, such as 5_hist_fig_ismale (_ stands for a "
        "space), or `all`. It needs `pip install lmsae[probes]`. Empty: none.",
        # An evaluation without probes has the key that it had before there were these columns.
        exclude_if=lambda value: not value,
    )
    probes_k: tuple[int, ...] = Field(
        default=PROBES_K,
        min_length=1,
        description="Numbers of latents that a probe reads.",
        exclude_if=lambda value: value == PROBES_K,
    )

    @field_validator("probes", "probes_k")
    @classmethod
    def _are_named_once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            raise ValueError(f"{twice[0]} is there more than once")
        if any(isinstance(value, int) and value < 1 for value in values):
            raise ValueError("wanted: numbers of latents, each at least 1")
        return values


def read_held_out(
    tokens: Artifact, norms: Sequence[Artifact], places: Sequence[Place], reading: Reading, most_tokens: int, by: str
) -> "HeldOutText":
    """The first held-out contexts, at most so many tokens. `norms` are those of `places`.

    Raises NotEnoughTokens if no token counts; `by` is the column that says how many there are.
    """
    from lmsae.evaluation.scoring import HeldOutText
    from lmsae.text.tokens import open_tokens

    split = open_tokens(tokens.path)
    contexts = max(1, min(len(split.held_out), most_tokens // split.held_out.shape[1]))
    usable = split.usable("held_out", slice(0, contexts), reading.skip_first_positions, reading.skip_last_positions)
    text = HeldOutText(split.held_out, usable, has_text=not split.numbers_vectors, has_positions=split.has_positions)
    if not text.scored(usable).any():
        raise NotEnoughTokens(
            f"of {usable.size:,} held-out tokens none counts that has a next token: raise {by} or "
            "tokenize.held_out_tokens, lower activations.skip_*_positions, or see what tokenize masks"
        )
    limits = [float(moments_of(norm)["max_norm"]) for norm in norms]
    limited = reading.max_norm_factor is not None
    max_norms = dict(zip(hook_points_of(places), limits, strict=True)) if limited else {}
    return replace(text, max_norms=max_norms)


def hook_up(
    dictionary: "Dictionary",
    places: Sequence[Place],
    sites: Sites,
    norms: Sequence[Artifact],
    groups: Collection[str],
    conversion: dict[str, float] | None = None,
    text: dict[str, float] | None = None,
) -> "HookedDictionary":
    """A dictionary at its hook points, to be measured in some metric groups. `norms` are those of `places`,
    `conversion` what conversion to jumprelu has cost it, and `text` the metrics of the text alone."""
    from lmsae.evaluation.hooked import HookedDictionary

    moments, points = [moments_of(norm) for norm in norms], hook_points_of(places)
    return HookedDictionary(
        dictionary=dictionary,
        reads=[points[number] for number in sites.reads],
        writes=[points[number] for number in sites.writes],
        means=[_mean(moments[number], dictionary) for number in sites.writes],
        mean_norms=[moments[number]["mean_norm"].item() for number in sites.writes],
        groups=groups,
        conversion=conversion or {},
        text=text or {},
    )


def require_current(groups: Mapping[str, int], folder: Path) -> None:
    """Refuse metric groups in another version than this lmsae's, for the artifact in a folder."""
    for name, version in groups.items():
        now = group.version if (group := group_of(name)) else None
        if now != version:
            known = f"this lmsae measures version {now}" if now else "this lmsae knows no such group"
            message = f"wants the metric group {name} in version {version}; {known}. Plan the sweep again"
            raise ConfigError([Fault(str(folder / SPEC), None, None, message)])


def hook_points_of(places: Sequence[Place]) -> "list[HookPoint]":
    """The hook points of places, by number."""
    from lmsae.evaluation.hooked import HookPoint

    return [HookPoint(place.model, place.hook_point) for place in places]


def _mean(moments: "dict[str, Tensor]", dictionary: "Dictionary") -> "Tensor":
    return moments["mean"].float().to(next(dictionary.parameters()).device)
