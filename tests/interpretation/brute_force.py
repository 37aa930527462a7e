"""The columns of the stage `features` from dense codes, one latent at a time, in NumPy's float64 and plain loops."""

import itertools
from typing import Any

import numpy as np

MASK = 2**64 - 1


def mix(number: int) -> int:
    """SplitMix64, in Python's whole numbers."""
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def bin_of(size: float, largest: float, bins: int) -> int:
    return min(int(size * bins / largest), bins - 1)


def numbers_of(codes: np.ndarray, ids: np.ndarray, counted: np.ndarray, latent: int, shown: Any) -> dict[str, Any]:
    """The numbers of one latent. `codes` are (contexts, context_size, latents) float32."""
    size = ids.shape[1]
    sizes = np.where(counted, np.abs(codes[..., latent].astype(np.float64)), 0.0)
    fires, largest = sizes > 0, float(sizes.max())
    edges = shown.position_edges(size)
    histogram = [0] * shown.histogram_bins
    for one in sizes[fires]:
        histogram[bin_of(float(one), largest, shown.histogram_bins)] += 1
    rates = []
    for begin, end in itertools.pairwise(edges):
        there = counted[:, begin:end].sum()
        rates.append(np.float32(fires[:, begin:end].sum() / there) if there else None)
    return {
        "latent": latent,
        "active_tokens": int(fires.sum()),
        "firing_rate": fires.sum() / counted.sum(),
        "mean_active": np.float32(sizes.sum() / fires.sum()) if fires.any() else None,
        "max_activation": np.float32(largest),
        "histogram": histogram,
        "position_rate": rates,
        "top_tokens": top_tokens(sizes, ids, counted, shown.top_tokens),
        "companions": companions(codes, counted, latent, shown.companions),
    }


def top_tokens(sizes: np.ndarray, ids: np.ndarray, counted: np.ndarray, most: int) -> list[tuple[Any, ...]]:
    """Token, firings, rate and mean."""
    found = []
    for token in np.unique(ids[counted]):
        here = sizes[counted & (ids == token)]
        if (here > 0).any():
            active = int((here > 0).sum())
            found.append((-here.sum(), int(token), active, active / len(here), np.float32(here.sum() / active)))
    return [one[1:] for one in sorted(found)[:most]]


def companions(codes: np.ndarray, counted: np.ndarray, latent: int, most: int) -> list[tuple[int, Any]]:
    """Other latents and their phi coefficients."""
    fires = codes[counted] != 0
    mine, found = fires[:, latent], []
    for other in range(fires.shape[1]):
        theirs = fires[:, other]
        if other != latent and (mine & theirs).any() and not mine.all() and not theirs.all():
            n, both = len(mine), int((mine & theirs).sum())
            a, b = int(mine.sum()), int(theirs.sum())
            found.append((-(n * both - a * b) / (np.sqrt(float(a * (n - a))) * np.sqrt(float(b * (n - b)))), other))
    return [(other, np.float32(-phi)) for phi, other in sorted(found)[:most]]


def peaks_of(codes: np.ndarray, counted: np.ndarray, latent: int, shown: Any, first_slot: int) -> list[tuple[str, int]]:
    """Kind and slot of each peak of one latent, in their order."""
    contexts, size = counted.shape
    sizes = np.where(counted, np.abs(codes[..., latent]), 0)
    best = [(-sizes[c].max(), c * size + int(sizes[c].argmax())) for c in range(contexts) if sizes[c].max() > 0]
    found = [("top", slot) for _, slot in sorted(best)[: shown.top_contexts]]
    flat, largest = sizes.ravel().astype(np.float64), float(sizes.max())
    of_latent = mix(mix(shown.seed) ^ latent)
    for number in range(shown.quantiles):
        slots = [s for s in np.flatnonzero(flat) if bin_of(float(flat[s]), largest, shown.quantiles) == number]
        chosen = sorted(slots, key=lambda slot: mix(of_latent ^ (first_slot + int(slot))))[: shown.quantile_samples]
        found += [(f"q{number + 1}", int(s)) for s in sorted(chosen, key=lambda slot: (-flat[slot], slot))]
    return found
