"""Overlap: the share of the held-out text that stands in the training text too, as near-duplicates leave it.

A window is a run of 32 tokens in one context. Both splits are compared window by window, by a hash of 64 bits.
"""

import numpy as np

from lmsae.text.tokens import TokenArray, TokenSet

WINDOW = 32
BLOCK_TOKENS = 2**20
_SIEVE = np.uint64(2**24 - 1)
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


def held_out_overlap(tokens: TokenSet, *, skip: int = 0) -> float:
    """The share of the windows of the held-out split that stand in a context of the train split.

    The first `skip` positions of each context, such as BOS, belong to no window. A context that is shorter than a
    window is one.
    """
    size = min(WINDOW, tokens.context_size - skip)
    held_out, counts = np.unique(
        np.concatenate([_windows(block[:, skip:], size) for block in _blocks(tokens.held_out)]), return_counts=True
    )
    sieve = np.zeros(
        int(_SIEVE) + 1, np.bool_
    )  # few windows of the training text pass it, and only those are looked up
    sieve[held_out & _SIEVE] = True
    is_found = np.zeros(len(held_out), np.bool_)
    for block in _blocks(tokens.train):
        found = _windows(block[:, skip:], size)
        found = found[sieve[found & _SIEVE]]
        places = np.minimum(np.searchsorted(held_out, found), len(held_out) - 1)
        is_found[places[held_out[places] == found]] = True
    return float(counts[is_found].sum() / counts.sum())


def _blocks(array: TokenArray):
    step = max(1, BLOCK_TOKENS // array.shape[1])
    return (array[begin : begin + step] for begin in range(0, len(array), step))


def _windows(ids: np.ndarray, size: int) -> np.ndarray:
    """A hash of each run of `size` tokens in contexts (contexts, positions), uint64, flat.

    The hash of a run is that of its two halves, which overlap where its length is no power of 2.
    """
    hashes, length = ids.astype(np.uint64) * _FACTORS[0] + np.uint64(1), 1
    while length < size:
        step = min(length, size - length)
        hashes = hashes[:, :-step] * _FACTORS[1] + hashes[:, step:]
        hashes ^= hashes >> np.uint64(29)
        length += step
    return hashes.ravel()
