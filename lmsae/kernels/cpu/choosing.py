"""Choosing entries of a matrix: the largest of each row, of all, or those above a floor.

Values are compared by keys: their bits as integers, with those of negative values reversed. The order of the keys is
that of the floats, and NaN of either sign is above all, so that it is chosen and seen. The compiler turns loops over
integers into vector instructions; over floats it could not, because of NaN.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.kernels.cpu.threads import compile_loop, share_among_threads

ALL_BUT_SIGN, LOWEST, NEGATIVE_NANS = np.int32(0x7FFFFFFF), np.int32(-0x80000000), np.int32(0x7FFFFF)
"""The last is the number of negative NaNs. Subtracting it from all keys moves them to the top, and -inf to LOWEST."""
LEAST_GROUPS = 32
"""The least number of groups of columns: so many maxima fill vector instructions."""


def can_choose(values: Tensor) -> bool:
    """True if these kernels can choose among such values."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.bfloat16)


def find_largest_of_rows(
    values: Float[Tensor, "rows width"], k: int
) -> tuple[Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
    """Find the k largest of each row, exactly and in no particular order: their columns, and their values.

    The values are float32 or bfloat16. Of equal values it takes as many as fit, always the same ones.
    """
    rows, width = values.shape
    assert k <= width
    columns, found = torch.empty(rows, k, dtype=torch.int64), values.new_empty(rows, k)
    (bits, shift), (found_bits, _) = _bits(values), _bits(found)
    groups = _count_groups(width, k)
    into = columns.numpy(), found_bits
    share_among_threads(
        rows, rows * width, lambda start, stop: _find_largest_of_rows(bits, shift, k, groups, *into, start, stop)
    )
    return columns, found


def order_of_equals(columns: Int[Tensor, "*entries"], width: int, k: int) -> Int[Tensor, "*entries"]:
    """The order in which `find_largest_of_rows` takes equal values of a row of `width`: those with small numbers."""
    return columns % _count_groups(width, k) * width + columns


def _count_groups(width: int, k: int) -> int:
    """The number of groups of columns among which the k largest of a row are looked for."""
    groups = max(min(12 * k, width // 4), LEAST_GROUPS)
    return groups if 4 * k <= groups <= width else width


def count_above(values: Float[Tensor, "rows width"], floor: Float[Tensor, " width"]) -> Int[Tensor, " rows"]:
    """Count the values of each row, float32 or bfloat16, that are above the float32 floor of their column."""
    counts = torch.empty(len(values), dtype=torch.int64)
    (bits, shift), floors, into = _bits(values), _keys(floor), counts.numpy()
    share_among_threads(
        len(values), values.numel(), lambda start, stop: _count_above(bits, shift, floors, into, start, stop)
    )
    return counts


def find_above(
    values: Float[Tensor, "rows width"], floor: Float[Tensor, " width"], starts: Int[Tensor, " ends"]
) -> Int[Tensor, " entries"]:
    """Find the values that `count_above` counts: their columns, row by row in ascending order.

    Those of row i begin at starts[i], and starts[-1] is their number.
    """
    columns = torch.empty(int(starts[-1]), dtype=torch.int64)
    (bits, shift), floors, begins, into = _bits(values), _keys(floor), starts.numpy(), columns.numpy()
    share_among_threads(
        len(values),
        values.numel(),
        lambda start, stop: _find_above(bits, shift, floors, begins, into, start, stop),
    )
    return columns


def find_largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Find the `count` largest of float32 or bfloat16 values, exactly: their indices in ascending order.

    Of equal values it takes the first.
    """
    assert count <= len(values)
    indices = torch.empty(count, dtype=torch.int64)
    bits, shift = _bits(values)
    _find_largest(bits, shift, count, indices.numpy())
    return indices


def gather(
    values: Float[Tensor, "rows width"], starts: Int[Tensor, " ends"], columns: Int[Tensor, " entries"]
) -> Float[Tensor, " entries"]:
    """Gather the values at entries. Those of row i have the columns from starts[i] to starts[i + 1]."""
    found = values.new_empty(len(columns))
    (bits, _), (into, _), begins, indices = _bits(values), _bits(found), starts.numpy(), columns.numpy()
    share_among_threads(
        len(values), len(columns), lambda start, stop: _gather(bits, begins, indices, into, start, stop)
    )
    return found


def _bits(values: Tensor) -> tuple[np.ndarray, np.int32]:
    """The bits of float32 or bfloat16 values, and the shift that makes them the bits of float32."""
    assert can_choose(values)
    values = values.detach().contiguous()
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy(), np.int32(16)
    return values.view(torch.int32).numpy(), np.int32(0)


def _keys(floor: Tensor) -> np.ndarray:
    """The keys of float32 values. -0 counts as 0, so that 0 is not above it."""
    bits, _ = _bits(floor.float() + 0.0)
    return (bits ^ ((bits >> 31) & ALL_BUT_SIGN)) - NEGATIVE_NANS


@compile_loop
def key_of(bits, shift):
    """The key of a value by its bits, shifted left to be those of a float32."""
    wide = np.int32(np.int32(bits) << shift)
    return np.int32((wide ^ ((wide >> np.int32(31)) & ALL_BUT_SIGN)) - NEGATIVE_NANS)


@compile_loop
def _count_from(keys, level):
    count = np.uint32(0)
    for i in range(keys.size):
        count = np.uint32(count + np.uint32(keys[i] >= level))
    return count


@compile_loop
def _level(keys, least, most):
    """Search by halves for the highest level with at least `least` keys at or above it.

    The search ends early at a level with at most `most` such keys.
    """
    low, high = keys[0], keys[0]
    for i in range(keys.size):
        low, high = min(low, keys[i]), max(high, keys[i])
    if keys.size <= most or _count_from(keys, high) >= least:
        return low if keys.size <= most else high
    while np.int64(high) - np.int64(low) > 1:
        middle = np.int32((np.int64(low) + np.int64(high)) >> 1)
        count = _count_from(keys, middle)
        if count < least:
            high = middle
        else:
            low = middle
            if count <= most:
                break
    return low


@compile_loop
def _find_largest_of_rows(bits, shift, k, groups, into, found_bits, start, stop):
    """Split the columns into groups, and look only into groups that can hold one of the k largest.

    At least k group maxima, and so at least k values, are as large as the k-th largest maximum. A group with a smaller
    maximum holds none of the k largest values.
    """
    width = bits.shape[1]
    maxima, candidates = np.empty(groups, np.int32), np.empty(width + 1, np.int32)
    kept, columns = np.empty(groups + 1, np.int32), np.empty(width + 1, np.int32)
    for row in range(start, stop):
        values = bits[row]
        maxima[:] = LOWEST
        for begin in range(0, width, groups):
            stretch = values[begin : begin + groups]
            for i in range(stretch.size):
                key = key_of(stretch[i], shift)
                maxima[i] = key if key > maxima[i] else maxima[i]
        level = _level(maxima, k, k + k // 8)
        count = np.uint32(0)
        for i in range(groups):
            kept[count] = i
            count = np.uint32(count + np.uint32(maxima[i] >= level))
        found = np.uint32(0)
        for group in kept[:count]:
            for column in range(group, width, groups):
                key = key_of(values[column], shift)
                candidates[found], columns[found] = key, column
                found = np.uint32(found + np.uint32(key >= level))
        _take(candidates[:found], columns, k, into[row])
        for i in range(k):
            found_bits[row, i] = values[into[row, i]]


@compile_loop
def _take(keys, indices, count, into):
    """Write the indices of the `count` largest keys, in ascending order; of equal keys the first."""
    level = _level(keys, count, count)
    equal = count
    for i in range(keys.size):
        equal -= keys[i] > level
    taken = 0
    for i in range(keys.size):
        if keys[i] > level or (keys[i] == level and equal > 0):
            into[taken] = indices[i]
            taken += 1
            equal -= keys[i] == level


@compile_loop
def _find_largest(bits, shift, count, into):
    keys, indices = np.empty(bits.size, np.int32), np.arange(bits.size)
    for i in range(bits.size):
        keys[i] = key_of(bits[i], shift)
    _take(keys, indices, count, into)


@compile_loop
def _count_above(bits, shift, floors, into, start, stop):
    for row in range(start, stop):
        values, count = bits[row], np.uint32(0)
        for i in range(values.size):
            count = np.uint32(count + np.uint32(key_of(values[i], shift) > floors[i]))
        into[row] = count


@compile_loop
def _find_above(bits, shift, floors, starts, into, start, stop):
    width = bits.shape[1]
    columns, above = np.empty(width + 1, np.int32), np.zeros(-(-width // 8) * 8, np.uint8)
    eights = above.view(np.uint64)
    for row in range(start, stop):
        values, found = bits[row], np.uint32(0)
        for i in range(values.size):
            above[i] = key_of(values[i], shift) > floors[i]
        for i in range(eights.size):
            if eights[i]:
                for column in range(8 * i, 8 * i + 8):
                    columns[found] = column
                    found = np.uint32(found + above[column])
        into[starts[row] : starts[row + 1]] = columns[:found]


@compile_loop
def _gather(bits, starts, columns, into, start, stop):
    for row in range(start, stop):
        for entry in range(starts[row], starts[row + 1]):
            into[entry] = bits[row, columns[entry]]
