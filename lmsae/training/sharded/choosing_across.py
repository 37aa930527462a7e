"""Choosing the largest of each row among columns that several processes have: exactly those that one would choose.

Each process sends the largest of its own values of a row, twice its share of k and a few more. If one of them all has
sent nothing but values from the level on, the k-th largest of those sent, it may have more: then each sends its k + 1
largest. Where more than k values are as large as the level, those are taken whose order comes first; then, and only
then, orders are sent too.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.kernels import cpu as cpu_kernels
from lmsae.training.sharded.processes import Processes

MORE = 8
"""The values that each process sends beyond twice its share: where k is small, shares differ much by chance."""
LAST = torch.iinfo(torch.int64).max
Columns = Int[Tensor, "rows own"]
Ordering = Callable[[Tensor], Tensor]
"""From columns of this process to numbers: of equal values those with the smallest are chosen."""
Found = tuple[Tensor, Tensor]
Finder = Callable[[Tensor, int], Found]


def find_largest_of_each(values: Float[Tensor, "rows width"], count: int) -> Found:
    """The columns of so many of the largest values of each row, and those values (rows, count)."""
    if not count:
        return values.new_empty(len(values), 0, dtype=torch.int64), values[:, :0]
    if cpu_kernels.can_choose(values):
        return cpu_kernels.find_largest_of_rows(values, count)
    found = values.topk(count, dim=1, sorted=False)
    return found.indices, found.values


def choose_across(
    processes: Processes,
    values: Float[Tensor, "rows width"],
    k: int,
    ordering: Ordering,
    find: Finder = find_largest_of_each,
) -> tuple[Columns, Float[Tensor, "rows own"], Bool[Tensor, "rows own"]]:
    """The own columns of this process that hold one of the k largest values of a row in all processes together.

    `values` are those of its own columns, among which `find` finds the largest. Returns columns, their values, and
    which of these are chosen. Values that are not numbers are chosen, so that they are seen. Of values that are not
    above 0 more than k may be chosen: their codes are 0.
    """
    columns, own = find(values, min(k + 1, values.shape[1]))
    everyone, level = _find_level(processes, own.float(), k)
    chosen = ~(own.float() < level)
    surplus = (((everyone >= level).sum(1, keepdim=True) > k) & (level > 0)).squeeze(1).nonzero().squeeze(1)
    if len(surplus):
        equal = own[surplus].float() == level[surplus]
        is_cut_off = own[surplus].float().amin(1) == level[surplus, 0] if own.shape[1] else equal.any(1)
        _take_first_equals(columns, values, equal[is_cut_off], surplus[is_cut_off], ordering)
        orders = ordering(columns[surplus]).where(equal, LAST)
        all_orders = processes.gather(_fill(orders, k + 1, LAST)).movedim(0, 1).flatten(1).sort(dim=1).values
        missing = k - (everyone[surplus] > level[surplus]).sum(1, keepdim=True)
        chosen[surplus] &= ~equal | (orders <= all_orders.gather(1, missing - 1))
    return columns, own, chosen


def _find_level(processes: Processes, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The level of each row (rows, 1), and values of all processes among which are all from there on (rows, sent)."""
    few = 2 * -(-k // processes.count) + MORE
    if few <= k:
        sent = _fill(own.topk(min(few, own.shape[1]), dim=1).values, few, -torch.inf)
        gathered = processes.gather(sent)
        everyone = gathered.movedim(0, 1).flatten(1)
        level = _kth_largest(everyone, k)
        if (gathered.amin(2) < level.squeeze(1)).all():
            return everyone, level
    everyone = processes.gather(_fill(own, k + 1, -torch.inf)).movedim(0, 1).flatten(1)
    return everyone, _kth_largest(everyone, k)


def _take_first_equals(columns: Tensor, values: Tensor, equal: Tensor, rows: Tensor, ordering: Ordering) -> None:
    """Let `columns` name those of the values that are equal to a row's level whose order comes first, in rows that may
    have more of them than are named."""
    for row, slots in zip(rows.tolist(), equal, strict=True):
        there = (values[row] == values[row, columns[row, slots][0]]).nonzero().squeeze(1)
        columns[row, slots] = there[ordering(there).argsort()[: int(slots.sum())]]


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest value of each row, (rows, 1)."""
    return find_largest_of_each(values, k)[1].amin(1, keepdim=True)


def _fill(values: Tensor, width: int, filling: float) -> Tensor:
    """The values of each row, with a filling behind them up to `width`."""
    return torch.cat([values, values.new_full((len(values), width - values.shape[1]), filling)], dim=1)
