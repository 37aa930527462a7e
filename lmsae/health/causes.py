"""Causes: why a dictionary is not healthy, each a function that yields a diagnosis where its evidence is there.

They stand in the order in which they are looked for. One that is found takes the metrics that it explains from all
ranges, and rules out the causes that only seem to be there because of it.
"""

import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

from lmsae.health.case import Case
from lmsae.health.config import Thresholds
from lmsae.health.curve_shape import at_the_end, drift, early_dead, early_rise, late_gain, path_of
from lmsae.health.diagnosis import CURVES, METRICS, SPEC, Diagnosis, Evidence
from lmsae.health.knobs import change_rate, denser, keep_fewer, liven, sparser
from lmsae.metrics.definitions import HISTOGRAM_BINS, HISTOGRAM_HIGH, HISTOGRAM_LOW
from lmsae.runtime.numbers import format_count

QUALITY = frozenset({"explained_variance", "ce_loss_score_mean", "l2_ratio"})
EVERYTHING = QUALITY | {"dead_share", "dense_share"}
FEWEST_FIRINGS = 50
"""A latent that has fired less often in training has learned by hardly more tokens than the directions it stands in."""

AMPLE = 20 * FEWEST_FIRINGS
"""Firings of the mean latent in training at which those that hardly fire do not want for text: they are dying."""

Find = Callable[[Case, Thresholds], Iterator[Diagnosis]]


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause: the function that finds it, and the causes that rule it out."""

    find: Find
    unless: Set[str] = frozenset()


def _unknown_text(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    clean, unigram = case.metric("ce_clean"), case.metric("ce_unigram")
    if clean / unigram > limits.max_ce_share:
        yield Diagnosis(
            "unknown_text",
            "the model predicts this text hardly better than counts of tokens do, so its activations mean little",
            (Evidence(METRICS, "ce_clean", clean, f"at most {limits.max_ce_share:g} of ce_unigram {unigram:.3g}"),),
            "Change dataset.name to text that the model was trained on, tokenize.tokenizer to the model's own, or "
            "model.name",
            EVERYTHING,
        )


def _too_few_latents(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    del limits
    latents, width = case.dictionary.get("d_sae"), case.width
    if width and latents and latents <= width and not case.is_of_matrices:
        yield Diagnosis(
            "too_few_latents",
            "there are no more latents than dimensions, and such a dictionary needs no sparse code",
            (Evidence(SPEC, "d_sae", latents, f"above {width}, the width that is read"),),
            f"Raise sae.d_sae to {4 * width} or more",
            frozenset({"dense_share", "explained_variance", "ce_loss_score_mean"}),
        )


def _lr_too_high(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    training, dead = case.training, case.metric("dead_share")
    rise = early_rise(case.curves)
    gone = early_dead(case.curves, training.get("dead_threshold", math.inf), case.metric("d_sae"))
    signs = (
        Evidence(CURVES, "early rise of the loss", rise, f"at most {limits.max_early_rise:g} times"),
        Evidence(CURVES, "early dead share", gone, f"at most {limits.max_early_dead_share:g}"),
    )
    seen = tuple(
        sign
        for sign, limit in zip(signs, (limits.max_early_rise, limits.max_early_dead_share), strict=True)
        if sign.value > limit
    )
    # Where no decoder bias takes the mean off what latents read, some may be dead from their start. At a rate that is
    # too high the loss rises besides.
    is_told = rise > limits.max_early_rise or case.reads_centered
    if seen and is_told and dead > limits.max_dead_share:
        advice = change_rate(case, 0.1)
        if not training.get("lr_warm_up_steps", 1):
            advice += ", and set train.lr_warm_up_steps to 0.05"
        evidence = (*seen, Evidence(METRICS, "dead_share", dead, f"at most {limits.max_dead_share:g}"))
        yield Diagnosis(
            "lr_too_high", "the first steps threw latents out of reach of the data", evidence, advice, EVERYTHING
        )


def _threshold_not_settled(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    share = case.metric("l0_over_k")
    if case.act_fn == "jumprelu":
        moved = drift(case.curves.get("l0", ()))
        if abs(moved) > limits.max_l0_drift:
            yield Diagnosis(
                "threshold_not_settled",
                "thresholds still moved when training ended",
                (Evidence(CURVES, "l0 over the last fifth", moved, f"changes by at most {limits.max_l0_drift:g}"),),
                f"Raise train.threshold_lr_factor from {case.training.get('threshold_lr_factor', 1):g}, or "
                "train.tokens",
            )
    elif abs(share - 1) > limits.max_off_k and not case.chooses_k:
        yield Diagnosis(
            "threshold_not_settled",
            "at inference, not k latents are active",
            (Evidence(METRICS, "l0_over_k", share, f"{1 - limits.max_off_k:g} to {1 + limits.max_off_k:g}"),),
            "Raise tokenize.calibration_tokens, on which the threshold is set, or train.tokens",
        )


def _k_not_reached(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    share = case.metric("l0_over_k")
    if case.chooses_k and share < 1 - limits.max_off_k:
        yield Diagnosis(
            "k_not_reached",
            "many tokens have fewer than k latents to choose from, for the other pre-activations are not positive",
            (Evidence(METRICS, "l0_over_k", share, f"at least {1 - limits.max_off_k:g}"),),
            keep_fewer(case),
        )


def _lr_too_low(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    training, way = case.training, path_of(case.curves)
    if not (way and case.width) or not any(training.get(f"{part}_lr_factor", 1) for part in ("encoder", "decoder")):
        return
    path = way[-1] / training.get("batch_size", math.inf) * math.sqrt(case.width)
    gain = late_gain(case.curves)
    seen = []
    if path < limits.min_path:
        seen.append(Evidence(CURVES, "path of a weight", path, f"at least {limits.min_path:g} of its size"))
    if gain > limits.max_late_gain:
        seen.append(Evidence(CURVES, "late gain", gain, f"at most {limits.max_late_gain:g}"))
    if seen:
        yield Diagnosis(
            "lr_too_low",
            "the loss was still falling when training ended",
            tuple(seen),
            f"{change_rate(case, 10 if path < limits.min_path else 3)}, or raise train.tokens",
            EVERYTHING,
        )


def _sparsity_too_strong(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    l0, explained, dead = (case.metric(name) for name in ("l0", "explained_variance", "dead_share"))
    effects = []
    if explained < limits.min_explained_variance:
        healthy = f"at least {limits.min_explained_variance:g}"
        effects.append(Evidence(METRICS, "explained_variance", explained, healthy))
    if dead > limits.max_dead_share:
        effects.append(Evidence(METRICS, "dead_share", dead, f"at most {limits.max_dead_share:g}"))
    if l0 < limits.min_l0 and effects and not case.is_of_matrices:
        times = 3 if 2 * l0 < limits.min_l0 else 2
        yield Diagnosis(
            "sparsity_too_strong",
            "too few latents are active to reconstruct by, or for all of them to learn",
            (Evidence(METRICS, "l0", l0, f"at least {limits.min_l0:g}"), *effects),
            denser(case, times) if explained < limits.min_explained_variance else liven(case, times),
            QUALITY | {"dead_share"},
        )


def _too_wide(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    tokens = case.training.get("tokens", 0)
    distinct = tokens / case.training.get("epochs", 1)
    starved = starved_share(case, tokens)
    overfit = at_the_end(case.curves.get("explained_variance", ())) - case.metric("explained_variance")
    seen = []
    mean_firings = tokens * case.metric("l0") / case.metric("d_sae")
    if starved > limits.max_starved_share and mean_firings < AMPLE:
        name = f"share of latents with fewer than {FEWEST_FIRINGS} firings in training"
        seen.append(Evidence(METRICS, name, starved, f"at most {limits.max_starved_share:g}"))
    if overfit > limits.max_overfit:
        name = "explained variance lost from training to held-out text"
        seen.append(Evidence(CURVES, name, overfit, f"at most {limits.max_overfit:g}"))
    if seen:
        latents = case.metric("d_sae")
        narrower = int(latents) // 4
        lower = f", or lower sae.d_sae to {narrower}" if narrower > (case.width or 0) else ""
        yield Diagnosis(
            "too_wide",
            f"{format_count(distinct)} different tokens are too few for {latents:,.0f} latents",
            tuple(seen),
            f"Raise train.tokens and tokenize.tokens, with train.epochs 1{lower}",
            QUALITY | {"dead_share"},
        )


def _sparsity_too_weak(case: Case, limits: Thresholds) -> Iterator[Diagnosis]:
    l0, dense = case.metric("l0"), case.metric("dense_share")
    seen = []
    if case.width and l0 > limits.max_l0_share * case.width:
        most = f"at most {limits.max_l0_share:g} of the width {case.width}"
        seen.append(Evidence(METRICS, "l0", l0, most))
    if dense > limits.max_dense_share:
        seen.append(Evidence(METRICS, "dense_share", dense, f"at most {limits.max_dense_share:g}"))
    if seen:
        yield Diagnosis(
            "sparsity_too_weak",
            "so many latents are active that the code is dense",
            tuple(seen),
            sparser(case),
            frozenset({"dense_share"}),
        )


CAUSES = (
    Cause(_unknown_text),
    Cause(_too_few_latents),
    Cause(_lr_too_high),
    Cause(_threshold_not_settled, {"lr_too_high"}),
    Cause(_lr_too_low, {"lr_too_high", "threshold_not_settled"}),
    Cause(_k_not_reached, {"lr_too_high", "lr_too_low"}),
    Cause(_sparsity_too_strong, {"lr_too_high", "lr_too_low", "unknown_text", "k_not_reached"}),
    Cause(_too_wide, {"lr_too_high", "lr_too_low", "sparsity_too_strong"}),
    Cause(_sparsity_too_weak, {"too_few_latents", "lr_too_high", "lr_too_low"}),
)
"""In the order in which they are looked for."""


def starved_share(case: Case, tokens: float) -> float:
    """The share of latents that fired fewer than FEWEST_FIRINGS times in so many tokens, at the rates that evaluation
    found. Those that never fired are among them, but for those that had been dead for `train.dead_threshold` tokens
    when training ended: more text would bring them no firings. NaN if there is nothing to go by."""
    latents = case.metric("d_sae")
    if not (tokens and latents > 0 and case.histogram):
        return math.nan
    width = (HISTOGRAM_HIGH - HISTOGRAM_LOW) / HISTOGRAM_BINS
    bins = int((math.log10(FEWEST_FIRINGS / tokens) - HISTOGRAM_LOW) / width)
    dead = case.curves.get("dead") or (0.0,)
    return max(0.0, case.metric("dead") + sum(case.histogram[: max(0, bins)]) - dead[-1]) / latents
