"""Numba's versions, for processors, of what torch is slow at there: choosing entries of a matrix, sorting them, and
sums over them.

Values are compared by their bits as integers, those of negative ones turned round: their order is that of the floats,
and NaN of either sign is above all, so that it is chosen and seen. Loops over integers become vector instructions,
where those over floats must mind NaN.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

SMALL = 1 << 16
"""Numbers that are worth a thread."""
STRETCHES = 8
"""For each thread: whoever is done takes another one, for not all rows are as much work."""
ALL_BUT_SIGN, LOWEST, NEGATIVE_NANS = np.int32(0x7FFFFFFF), np.int32(-0x80000000), np.int32(0x7FFFFF)
"""The last is their number: taken from all keys it brings them round to the top, and -inf to the lowest."""
LEAST_GROUPS = 32
"""Of columns: so many maxima make vector instructions."""


def _compiled(function: Callable[..., Any]) -> Any:
    """Machine code of a function, kept between processes where there is a folder for it. It does not hold the GIL, and
    may sum in any order, the same one every time."""
    options = {"nogil": True, "fastmath": {"reassoc", "contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this package's folder nor the user's cache can be written
        return njit(**options)(function)


def can_choose(values: Tensor) -> bool:
    """Whether these kernels choose among such values."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.bfloat16)


def can_sort(columns: Tensor) -> bool:
    """Whether these kernels sort such columns."""
    return columns.device.type == "cpu"


def can_sum(values: Tensor) -> bool:
    """Whether these kernels sum such values."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def largest_of_rows(values: Float[Tensor, "rows width"], k: int) -> Int[Tensor, "rows k"]:
    """Columns of the k largest of each row, exactly, in no particular order; float32 or bfloat16.

    Of equal values as many are taken as there is room for, the same ones every time.
    """
    rows, width = values.shape
    assert k <= width
    columns = torch.empty(rows, k, dtype=torch.int64)
    bits, shift = _bits(values)
    groups = max(4 * k, LEAST_GROUPS)
    groups = groups if 4 * groups <= width else width
    into = columns.numpy()
    _in_parts(rows, rows * width, lambda start, stop: _largest_of_rows(bits, shift, k, groups, into, start, stop))
    return columns


def count_above(values: Float[Tensor, "rows width"], floor: Float[Tensor, " width"]) -> Int[Tensor, " rows"]:
    """How many values of each row are above the floor of their column; float32 or bfloat16, the floor float32."""
    counts = torch.empty(len(values), dtype=torch.int64)
    (bits, shift), floors, into = _bits(values), _keys(floor), counts.numpy()
    _in_parts(len(values), values.numel(), lambda start, stop: _count_above(bits, shift, floors, into, start, stop))
    return counts


def columns_above(
    values: Float[Tensor, "rows width"], floor: Float[Tensor, " width"], starts: Int[Tensor, " ends"]
) -> Int[Tensor, " entries"]:
    """The columns of those values, row by row in ascending order; row i's begin at starts[i], and starts[-1] is their
    number."""
    columns = torch.empty(int(starts[-1]), dtype=torch.int64)
    (bits, shift), floors, begins, into = _bits(values), _keys(floor), starts.numpy(), columns.numpy()
    _in_parts(
        len(values),
        values.numel(),
        lambda start, stop: _columns_above(bits, shift, floors, begins, into, start, stop),
    )
    return columns


def largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Places of the `count` largest of float32 or bfloat16 values, exactly, in ascending order; of equal ones the
    first."""
    assert count <= len(values)
    places = torch.empty(count, dtype=torch.int64)
    bits, shift = _bits(values)
    _largest(bits, shift, count, places.numpy())
    return places


def sorted_by_column(
    columns: Int[Tensor, " entries"], width: int
) -> tuple[Int[Tensor, " ends"], Int[Tensor, " entries"]]:
    """Where the entries of each of `width` columns begin once they are sorted by column, and which entry stands at each
    place there; those of one column keep their order."""
    starts, order = torch.empty(width + 1, dtype=torch.int64), torch.empty_like(columns)
    _sorted_by_column(columns.numpy(), starts.numpy(), order.numpy())
    return starts, order


def at(
    values: Float[Tensor, "rows width"], starts: Int[Tensor, " ends"], columns: Int[Tensor, " entries"]
) -> Float[Tensor, " entries"]:
    """Values at entries: those of row i are at the columns from starts[i] to starts[i + 1]."""
    found = values.new_empty(len(columns))
    (bits, _), (into, _), begins, places = _bits(values), _bits(found), starts.numpy(), columns.numpy()
    _in_parts(len(values), len(columns), lambda start, stop: _at(bits, begins, places, into, start, stop))
    return found


def columns_with(
    values: Float[Tensor, " entries"], columns: Int[Tensor, " entries"], width: int
) -> Bool[Tensor, " width"]:
    """Which columns have a value other than 0 at any of their entries; float32 or float64."""
    found = torch.zeros(width, dtype=torch.bool)
    _columns_with(values.detach().numpy(), columns.numpy(), found.numpy())
    return found


def bag_sums(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    rows: Float[Tensor, "columns d"],
    order: Int[Tensor, " entries"] | None = None,
) -> Float[Tensor, "bags d"]:
    """For each bag of entries, starts[i] to starts[i + 1], the sum of values times rows, 0 for an empty one; float32 or
    float64. With an order, the value of entry i is values[order[i]]."""
    assert values.dtype == rows.dtype
    sums = rows.new_empty(len(starts) - 1, rows.shape[1])
    values, rows = values.detach().contiguous(), rows.detach().contiguous()
    arrays = starts.numpy(), columns.numpy(), values.numpy(), rows.numpy(), None if order is None else order.numpy()
    into = sums.numpy()
    _in_parts(len(sums), len(columns) * rows.shape[1], lambda start, stop: _bag_sums(*arrays, into, start, stop))
    return sums


def entry_dots(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    x: Float[Tensor, "rows d"],
    y: Float[Tensor, "columns d"],
) -> Float[Tensor, " entries"]:
    """The scalar product of each entry's row of x and column's row of y; float32 or float64."""
    assert x.dtype == y.dtype
    dots = x.new_empty(len(columns))
    x, y = x.detach().contiguous(), y.detach().contiguous()
    arrays = starts.numpy(), columns.numpy(), x.numpy(), y.numpy(), dots.numpy()
    _in_parts(len(x), len(columns) * x.shape[1], lambda start, stop: _entry_dots(*arrays, start, stop))
    return dots


def _bits(values: Tensor) -> tuple[np.ndarray, np.int32]:
    """Bits of float32 or bfloat16 values, and by how much to shift them to those of float32."""
    assert can_choose(values)
    values = values.detach().contiguous()
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy(), np.int32(16)
    return values.view(torch.int32).numpy(), np.int32(0)


def _keys(floor: Tensor) -> np.ndarray:
    """Keys of float32 values; -0 is taken for 0, which is not above it."""
    bits, _ = _bits(floor.float() + 0.0)
    return (bits ^ ((bits >> 31) & ALL_BUT_SIGN)) - NEGATIVE_NANS


def _in_parts(rows: int, numbers: int, work: Callable[[int, int], None]) -> None:
    """Work on stretches of rows, each from a first one up to another, in up to as many threads as torch has, this one
    among them; `numbers` to work on in all."""
    threads = min(torch.get_num_threads(), numbers // SMALL + 1)
    parts = min(STRETCHES * threads, rows) if threads > 1 else 1
    stretches = deque((rows * part // parts, rows * (part + 1) // parts) for part in range(parts))

    def take_all() -> None:
        while True:
            try:
                stretch = stretches.popleft()
            except IndexError:
                return
            work(*stretch)

    others = [_pool(torch.get_num_threads() - 1).submit(take_all) for _ in range(threads - 1)]
    take_all()
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lmsae-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay behind


@_compiled
def _key(bits, shift):
    wide = np.int32(np.int32(bits) << shift)
    return np.int32((wide ^ ((wide >> np.int32(31)) & ALL_BUT_SIGN)) - NEGATIVE_NANS)


@_compiled
def _count_from(keys, level):
    count = np.uint32(0)
    for i in range(keys.size):
        count = np.uint32(count + np.uint32(keys[i] >= level))
    return count


@_compiled
def _level(keys, least, most):
    """The highest level found from which on there are at least `least` keys; sought by halves until there are at most
    `most`, or no level lies between."""
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


@_compiled
def _largest_of_rows(bits, shift, k, groups, into, start, stop):
    """Of the maxima of groups of columns, k are at least as large as the k-th largest: so are k values at least. Only
    groups whose maximum is no less can hold one of the k largest."""
    width = bits.shape[1]
    maxima, candidates = np.empty(groups, np.int32), np.empty(width + 1, np.int32)
    kept, columns = np.empty(groups + 1, np.int32), np.empty(width + 1, np.int32)
    for row in range(start, stop):
        values = bits[row]
        maxima[:] = LOWEST
        for begin in range(0, width, groups):
            stretch = values[begin : begin + groups]
            for i in range(stretch.size):
                key = _key(stretch[i], shift)
                maxima[i] = key if key > maxima[i] else maxima[i]
        level = _level(maxima, k, k + k // 8)
        count = np.uint32(0)
        for i in range(groups):
            kept[count] = i
            count = np.uint32(count + np.uint32(maxima[i] >= level))
        found = np.uint32(0)
        for group in kept[:count]:
            for column in range(group, width, groups):
                key = _key(values[column], shift)
                candidates[found], columns[found] = key, column
                found = np.uint32(found + np.uint32(key >= level))
        _take(candidates[:found], columns, k, into[row])


@_compiled
def _take(keys, places, count, into):
    """Write the places of the `count` largest keys, in their order; of equal ones the first."""
    level = _level(keys, count, count)
    equal = count
    for i in range(keys.size):
        equal -= keys[i] > level
    taken = 0
    for i in range(keys.size):
        if keys[i] > level or (keys[i] == level and equal > 0):
            into[taken] = places[i]
            taken += 1
            equal -= keys[i] == level


@_compiled
def _largest(bits, shift, count, into):
    keys, places = np.empty(bits.size, np.int32), np.arange(bits.size)
    for i in range(bits.size):
        keys[i] = _key(bits[i], shift)
    _take(keys, places, count, into)


@_compiled
def _count_above(bits, shift, floors, into, start, stop):
    for row in range(start, stop):
        values, count = bits[row], np.uint32(0)
        for i in range(values.size):
            count = np.uint32(count + np.uint32(_key(values[i], shift) > floors[i]))
        into[row] = count


@_compiled
def _columns_above(bits, shift, floors, starts, into, start, stop):
    width = bits.shape[1]
    columns, above = np.empty(width + 1, np.int32), np.zeros(-(-width // 8) * 8, np.uint8)
    eights = above.view(np.uint64)
    for row in range(start, stop):
        values, found = bits[row], np.uint32(0)
        for i in range(values.size):
            above[i] = _key(values[i], shift) > floors[i]
        for i in range(eights.size):
            if eights[i]:
                for column in range(8 * i, 8 * i + 8):
                    columns[found] = column
                    found = np.uint32(found + above[column])
        into[starts[row] : starts[row + 1]] = columns[:found]


@_compiled
def _sorted_by_column(columns, starts, order):
    starts[:] = 0
    for i in range(columns.size):
        starts[columns[i] + 1] += 1
    for column in range(1, starts.size):
        starts[column] += starts[column - 1]
    free = starts.copy()
    for i in range(columns.size):
        order[free[columns[i]]] = i
        free[columns[i]] += 1


@_compiled
def _at(bits, starts, columns, into, start, stop):
    for row in range(start, stop):
        for entry in range(starts[row], starts[row + 1]):
            into[entry] = bits[row, columns[entry]]


@_compiled
def _columns_with(values, columns, found):
    for entry in range(values.size):
        if values[entry] != 0:
            found[columns[entry]] = True


@_compiled
def _bag_sums(starts, columns, values, rows, order, into, start, stop):
    for bag in range(start, stop):
        total, entry, end = into[bag], starts[bag], starts[bag + 1]
        total[:] = 0
        while entry < end:
            if entry + 4 <= end:  # each sum is then read and written once for four entries
                a, b, c, d = entry, entry + 1, entry + 2, entry + 3
                row_a, row_b, row_c, row_d = rows[columns[a]], rows[columns[b]], rows[columns[c]], rows[columns[d]]
                if order is not None:
                    a, b, c, d = order[a], order[b], order[c], order[d]
                a, b, c, d = values[a], values[b], values[c], values[d]
                for i in range(total.size):
                    total[i] += a * row_a[i] + b * row_b[i] + c * row_c[i] + d * row_d[i]
                entry += 4
            else:
                row = rows[columns[entry]]
                value = values[entry] if order is None else values[order[entry]]
                for i in range(total.size):
                    total[i] += value * row[i]
                entry += 1


@_compiled
def _entry_dots(starts, columns, x, y, into, start, stop):
    for row in range(start, stop):
        of_x = x[row]
        for entry in range(starts[row], starts[row + 1]):
            of_y = y[columns[entry]]
            total = of_x[0] * of_y[0]
            for i in range(1, of_x.size):
                total += of_x[i] * of_y[i]
            into[entry] = total
