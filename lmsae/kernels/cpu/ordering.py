"""Sorting by counting: entries by their column, random words by their value."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lmsae.kernels.cpu.threads import compiled

WORD_BITS = 64


def can_sort(columns: Tensor) -> bool:
    """Whether these kernels sort such columns."""
    return columns.device.type == "cpu"


def sorted_by_column(
    columns: Int[Tensor, " entries"], width: int, others: Int[Tensor, " entries"]
) -> tuple[Int[Tensor, " ends"], Int[Tensor, " entries"], Int[Tensor, " entries"]]:
    """Where the entries of each of `width` columns begin once they are sorted by column, another number of each entry
    in that order, and which entry stands at each place; those of one column keep their order."""
    starts = torch.empty(width + 1, dtype=torch.int64)
    moved, order = torch.empty_like(others), torch.empty_like(columns)
    _sorted_by_column(columns.numpy(), others.numpy(), starts.numpy(), moved.numpy(), order.numpy())
    return starts, moved, order


def argsort_words(words: np.ndarray) -> np.ndarray:
    """The places of random uint64 words, the least first, and of equal ones the first: a stable argsort, several times
    as fast. Words that share their first bits would take quadratic time."""
    bits = max(1, (len(words) - 1).bit_length())
    sorted_words, places = np.empty_like(words), np.empty(len(words), np.int64)
    _argsort_words(words, np.uint64(WORD_BITS - bits), np.zeros(1 << bits, np.int32), sorted_words, places)
    return places


@compiled
def _sorted_by_column(columns, others, starts, moved, order):
    starts[:] = 0
    for i in range(columns.size):
        starts[columns[i] + 1] += 1
    for column in range(1, starts.size):
        starts[column] += starts[column - 1]
    free = starts.copy()
    for i in range(columns.size):
        at = free[columns[i]]
        moved[at], order[at] = others[i], i
        free[columns[i]] = at + 1


@compiled
def _argsort_words(words, shift, ends, into, places):
    """By their first bits words are counted into about as many places as there are words; few are then not yet where
    they belong, and none is far from there."""
    for i in range(words.size):
        ends[words[i] >> shift] += 1
    begin = 0
    for bucket in range(ends.size):
        begin, ends[bucket] = begin + ends[bucket], begin
    for i in range(words.size):
        bucket = words[i] >> shift
        at = ends[bucket]
        into[at], places[at] = words[i], i
        ends[bucket] = at + 1
    for i in range(1, words.size):
        word, place, at = into[i], places[i], i
        while at > 0 and into[at - 1] > word:
            into[at], places[at] = into[at - 1], places[at - 1]
            at -= 1
        into[at], places[at] = word, place
