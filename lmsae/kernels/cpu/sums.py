"""Sums and scalar products over entries."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.kernels.cpu.threads import compile_loop, share_among_threads


def can_sum(values: Tensor) -> bool:
    """True if these kernels can sum such values."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def find_nonzero_columns(
    values: Float[Tensor, " entries"], columns: Int[Tensor, " entries"], width: int
) -> Bool[Tensor, " width"]:
    """The mask of the columns with a value, float32 or float64, other than 0 at any of their entries."""
    found = torch.zeros(width, dtype=torch.bool)
    _find_nonzero_columns(values.detach().numpy(), columns.numpy(), found.numpy())
    return found


def sum_bags(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    rows: Float[Tensor, "columns d"],
    order: Int[Tensor, " entries"] | None = None,
) -> Float[Tensor, "bags d"]:
    """Sum values times rows over each bag of entries, which goes from starts[i] to starts[i + 1]; float32 or float64.

    An empty bag sums to 0. With an order, the value of entry i is values[order[i]].
    """
    assert values.dtype == rows.dtype
    sums = rows.new_empty(len(starts) - 1, rows.shape[1])
    values, rows = values.detach().contiguous(), rows.detach().contiguous()
    arrays = starts.numpy(), columns.numpy(), values.numpy(), rows.numpy(), None if order is None else order.numpy()
    into = sums.numpy()
    share_among_threads(
        len(sums), len(columns) * rows.shape[1], lambda start, stop: _sum_bags(*arrays, into, start, stop)
    )
    return sums


def dot_entries(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    x: Float[Tensor, "rows d"],
    y: Float[Tensor, "columns d"],
) -> Float[Tensor, " entries"]:
    """The scalar product of the row of x and the column's row of y, for each entry; float32 or float64."""
    assert x.dtype == y.dtype
    dots = x.new_empty(len(columns))
    x, y = x.detach().contiguous(), y.detach().contiguous()
    arrays = starts.numpy(), columns.numpy(), x.numpy(), y.numpy(), dots.numpy()
    share_among_threads(len(x), len(columns) * x.shape[1], lambda start, stop: _dot_entries(*arrays, start, stop))
    return dots


@compile_loop
def _find_nonzero_columns(values, columns, found):
    for entry in range(values.size):
        if values[entry] != 0:
            found[columns[entry]] = True


@compile_loop
def _sum_bags(starts, columns, values, rows, order, into, start, stop):
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


@compile_loop
def _dot_entries(starts, columns, x, y, into, start, stop):
    zero = x.dtype.type(0)
    for row in range(start, stop):
        of_x, entry, end = x[row], starts[row], starts[row + 1]
        while entry < end:
            if entry + 4 <= end:  # x is then read once for four entries
                a, b, c, d = entry, entry + 1, entry + 2, entry + 3
                row_a, row_b, row_c, row_d = y[columns[a]], y[columns[b]], y[columns[c]], y[columns[d]]
                to_a = to_b = to_c = to_d = zero
                for i in range(of_x.size):
                    to_a += of_x[i] * row_a[i]
                    to_b += of_x[i] * row_b[i]
                    to_c += of_x[i] * row_c[i]
                    to_d += of_x[i] * row_d[i]
                into[a], into[b], into[c], into[d] = to_a, to_b, to_c, to_d
                entry += 4
            else:
                of_y, total = y[columns[entry]], zero
                for i in range(of_x.size):
                    total += of_x[i] * of_y[i]
                into[entry] = total
                entry += 1
