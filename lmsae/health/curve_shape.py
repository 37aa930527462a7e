"""The shape of training curves: how a run began, and whether it was still getting better at the end."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

Curves = Mapping[str, Sequence[float]]
AT_WORK = 0.5
"""The learning rate is at work where it is at least this share of its peak. What a run gains later, while the rate
falls to its end, says little of how far it came."""
BEGINNING = 0.06
"""Share of the points before which warm-ups of rates and penalties shape the loss (`train.*_warm_up_steps`)."""
EARLY = 0.02
WINDOW = 0.05
"""Share of training over which a loss is averaged."""
LAST = 0.05
FEWEST_POINTS = 20
"""With fewer points than that, nothing is said of a shape."""


def late_gain(curves: Curves) -> float:
    """The share of what the loss fell by that it fell in the second half of training; NaN where it did not fall.

    Training is measured by the learning rate summed over tokens, from the end of warm-up to the last point at which the
    rate is at work. A straight fall gives 0.5, and one with the logarithm of training 0.22. AuxK is left out: it
    sets in with the first dead latent.
    """
    losses, way = _losses(curves), path_of(curves)
    if min(len(losses), len(way)) < FEWEST_POINTS or not way[-1]:
        return math.nan
    rates, begin = curves["lr"], int(BEGINNING * len(way))
    end = max(i for i, rate in enumerate(rates) if rate >= AT_WORK * max(rates))
    half = WINDOW * way[end] / 2
    begins, ends = way[begin] + half, way[end] - half

    def loss_at(place: float) -> float:
        return _mean([loss for loss, at in zip(losses, way, strict=True) if abs(at - place) <= half])

    first, middle, last = (loss_at(place) for place in (begins, (begins + ends) / 2, ends))
    return (middle - last) / (first - last) if first > last else math.nan


def path_of(curves: Curves) -> list[float]:
    """At each point, the learning rates of all tokens up to it, summed. Over the batch size it is the most that Adam
    can have moved a weight by."""
    if not {"lr", "tokens"} <= curves.keys():
        return []
    rates, tokens = curves["lr"], curves["tokens"]
    apart = (after - before for before, after in zip((0, *tokens), tokens, strict=False))
    return list(accumulate(rate * step for rate, step in zip(rates, apart, strict=True)))


def early_rise(curves: Curves) -> float:
    """The largest reconstruction loss of the first fiftieth of training, as a multiple of the first."""
    losses = curves.get("reconstruction_loss") or curves.get("loss") or ()
    early = losses[: max(3, int(EARLY * len(losses)))]
    return max(early) / early[0] if len(early) > 1 and early[0] > 0 else math.nan


def early_dead(curves: Curves, dead_threshold: float, latents: float) -> float:
    """The share of latents that are dead over the first WINDOW of training in which any can be; NaN if that begins in
    the second half."""
    tokens, dead = curves.get("tokens", ()), curves.get("dead", ())
    at = next((i for i, seen in enumerate(tokens) if seen > dead_threshold), len(tokens))
    first = dead[at : at + max(1, int(WINDOW * len(dead)))]
    return _mean(first) / latents if at < len(dead) / 2 and latents else math.nan


def drift(values: Sequence[float]) -> float:
    """The change of a curve over the last fifth of training, as a share of what it was; NaN without a curve."""
    few = max(1, int(LAST * len(values)))
    begin = int(0.8 * len(values))
    before, after = _mean(values[max(0, begin - few) : begin]), _mean(values[-few:])
    return (after - before) / before if before > 0 else math.nan


def at_the_end(values: Sequence[float]) -> float:
    """The mean of the last points of a curve."""
    return _mean(values[-max(1, int(LAST * len(values))) :])


def _losses(curves: Curves) -> list[float]:
    losses = curves.get("loss", ())
    auxiliary = curves.get("aux_k_loss", [0.0] * len(losses))
    return [loss - aux for loss, aux in zip(losses, auxiliary, strict=False)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
