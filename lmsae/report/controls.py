"""Controls: dictionaries of which a part has learned nothing, beside those that they are a control of.

What a dictionary is worth is what it is better by than one whose decoder, encoder or both stayed as they were drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmsae.report.results import Result

SOFT = "train.decoder_min_cosine"
FREEZING = frozenset(f"train.{part}_lr_factor" for part in ("encoder", "decoder", "bias", "threshold")) | {SOFT}
"""The settings that make a control: a dictionary differs from its controls in these alone."""
Settings = tuple[tuple[str, str], ...]
STARTING = frozenset({"init.decoder_init", "sae.d_sae", "sae.expansion_factor"})
"""The settings in which a PCA differs besides: it has no more latents than directions and their opposites."""
PCA = "PCA"
COMPARED = ("explained_variance", "ce_loss_score_mean")
"""The scores that are read beside a control's, and so are those of probes where there are any."""
PROBE = "probe_auc["


@dataclass(frozen=True, slots=True)
class Control:
    """A dictionary, a control of it, and what kind of control that is."""

    result: Result
    control: Result
    kind: str


def kind_of_control(result: Result) -> str | None:
    """The parts of a dictionary that are frozen or soft-frozen; None if it is no control."""
    frozen = {part for part in ("encoder", "decoder") if result.settings.get(f"train.{part}_lr_factor", 1) == 0}
    if len(frozen) == 2:
        return PCA if result.settings.get("init.decoder_init") == "pca" else "random"
    parts = [f"frozen {part}" for part in frozen]
    if SOFT in result.settings and "decoder" not in frozen:
        parts.append(f"soft-frozen decoder ({result.say(SOFT)})")
    return ", ".join(parts) or None


def find_controls(results: Sequence[Result]) -> list[Control]:
    """Every dictionary with each of its controls: the rows that differ from it in what is frozen, and in nothing else
    but what a PCA cannot share."""
    controls: dict[tuple[frozenset[str], Settings], list[tuple[Result, str]]] = {}
    for result in results:
        if kind := kind_of_control(result):
            but = STARTING if kind == PCA else frozenset[str]()
            controls.setdefault((but, _rest(result, but)), []).append((result, kind))
    return [
        Control(result, control, kind)
        for result in results
        if kind_of_control(result) is None
        for but in (frozenset[str](), STARTING)
        for control, kind in controls.get((but, _rest(result, but)), ())
    ]


def compared(results: Sequence[Result]) -> list[str]:
    """The scores that are read beside a control's: those that every dictionary has, and those of the probes that any
    has, by the number of their latents."""
    probes = {name for result in results for name in result.metrics if name.startswith(PROBE)}
    return [*COMPARED, *sorted(probes, key=lambda name: (len(name), name))]


def best_control(controls: Sequence[Control], name: str) -> Result | None:
    """The control of a dictionary that explains most, which is the hardest to beat; None if it has none."""
    own = [one.control for one in controls if one.result.name == name]
    return max(own, key=lambda one: one.case.metric(COMPARED[0]), default=None)


def _rest(result: Result, but: frozenset[str]) -> Settings:
    """The settings in which a dictionary agrees with its controls."""
    return tuple((name, result.say(name)) for name in sorted(result.settings) if name not in FREEZING | but)
