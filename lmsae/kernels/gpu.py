"""Triton's versions of the sums and scalar products of entries.py, for GPUs.

torch's `embedding_bag` takes two to six times as long there. Tests run these kernels in Triton's interpreter on a CPU.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK, AT_ONCE, WARPS = 512, 8, 4
"""Columns of a program, entries that it reads at once, and its warps."""


def bag_sums(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    rows: Float[Tensor, "columns d"],
) -> Float[Tensor, "bags d"]:
    """For each bag of entries, starts[i] to starts[i + 1], the sum of values times rows; float32, 0 for an empty one.

    Each element is summed by one program in the order of the entries: the result is the same every time.
    """
    bags, d = len(starts) - 1, rows.shape[1]
    out = rows.new_empty(bags, d)
    block = min(triton.next_power_of_2(d), BLOCK)
    if bags:
        with torch.cuda.device_of(rows):
            _bag_sums[(bags, triton.cdiv(d, block))](
                starts, columns, values, rows, out, d, BLOCK=block, AT_ONCE=AT_ONCE, num_warps=WARPS
            )
    return out


def entry_dots(
    row: Int[Tensor, " entries"],
    columns: Int[Tensor, " entries"],
    x: Float[Tensor, "rows d"],
    y: Float[Tensor, "columns d"],
) -> Float[Tensor, " entries"]:
    """The scalar product of each entry's row of x and column's row of y; float32."""
    entries, d = len(row), x.shape[1]
    out = x.new_empty(entries)
    if entries:
        with torch.cuda.device_of(x):
            _entry_dots[(entries,)](
                row, columns, x, y, out, d, BLOCK=min(triton.next_power_of_2(d), BLOCK), num_warps=WARPS
            )
    return out


@triton.jit
def _bag_sums(starts, columns, values, rows, out, d, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    bag = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < d
    start, stop = tl.load(starts + bag), tl.load(starts + bag + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(start, stop, AT_ONCE):
        entry = first + tl.arange(0, AT_ONCE)
        there = entry < stop
        column = tl.load(columns + entry, mask=there, other=0)
        value = tl.load(values + entry, mask=there, other=0.0)
        read = tl.load(rows + column[:, None] * d + place[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        total += tl.sum(value[:, None] * read, 0)
    tl.store(out + bag * d + place, total, mask=inside)


@triton.jit
def _entry_dots(row, columns, x, y, out, d, BLOCK: tl.constexpr):
    entry = tl.program_id(0)
    of_x, of_y = x + tl.load(row + entry) * d, y + tl.load(columns + entry) * d
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, d, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < d
        total += tl.load(of_x + place, mask=inside, other=0.0) * tl.load(of_y + place, mask=inside, other=0.0)
    tl.store(out + entry, tl.sum(total, 0))
