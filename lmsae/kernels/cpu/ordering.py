"""Sorting by counting: entries by their column, random words by their value."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lmsae.kernels.cpu.threads import compile_loop

WORD_BITS = 64


def can_sort(columns: Tensor) -> bool:
    """True if these kernels can sort such columns."""
    return columns.device.type == "cpu"


def sort_by_column(
    columns: Int[Tensor, " entries"], width: int, others: Int[Tensor, " entries"]
) -> tuple[Int[Tensor, " ends"], Int[Tensor, " entries"], Int[Tensor, " entries"]]:
    """Sort entries by their column, of `width` columns; entries of one column keep their order.

    Returns the starts of the columns, `others` (another number of each entry) in the new order, and the old index of
    each entry in that order.
    """
    starts = torch.empty(width + 1, dtype=torch.int64)
    moved, order = torch.empty_like(others), torch.empty_like(columns)
    _sort_by_column(columns.numpy(), others.numpy(), starts.numpy(), moved.numpy(), order.numpy())
    return starts, moved, order


def argsort_words(words: np.ndarray) -> np.ndarray:
    """Argsort random uint64 words, stably, and several times as fast as NumPy.

    Words that share their first bits would take quadratic time.
    """
    bits = max(1, (len(words) - 1).bit_length())
    sorted_words, indices = np.empty_like(words), np.empty(len(words), np.int64)
    _argsort_words(words, np.uint64(WORD_BITS - bits), np.zeros(1 << bits, np.int32), sorted_words, indices)
    return indices


@compile_loop
def _sort_by_column(columns, others, starts, moved, order):
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


@compile_loop
def _argsort_words(words, shift, ends, into, indices):
    """Count words by their first bits into about as many buckets as there are words, then sort by insertion.

    After the counting few words are out of order, and none is far from its position.
    """
    for i in range(words.size):
        ends[words[i] >> shift] += 1
    begin = 0
    for bucket in range(ends.size):
        begin, ends[bucket] = begin + ends[bucket], begin
    for i in range(words.size):
        bucket = words[i] >> shift
        at = ends[bucket]
        into[at], indices[at] = words[i], i
        ends[bucket] = at + 1
    for i in range(1, words.size):
        word, index, at = into[i], indices[i], i
        while at > 0 and into[at - 1] > word:
            into[at], indices[at] = into[at - 1], indices[at - 1]
            at -= 1
        into[at], indices[at] = word, index
