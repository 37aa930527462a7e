"""Triton's kernels for the sums and scalar products of entries.py, for GPUs.

torch's `embedding_bag` takes two to six times as long on a GPU. Tests run these kernels in Triton's interpreter on a
CPU.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK, AT_ONCE, WARPS = 512, 8, 4
"""The columns of a program, the entries that it reads at once, and its warps."""


def sum_bags(
    starts: Int[Tensor, " ends"],
    columns: Int[Tensor, " entries"],
    values: Float[Tensor, " entries"],
    rows: Float[Tensor, "columns d"],
) -> Float[Tensor, "bags d"]:
    """Sum values times rows over each bag of entries, which goes from starts[i] to starts[i + 1]; float32.

    An empty bag sums to 0. One program sums each element in the order of the entries: the result is always the same.
    """
    bags, d = len(starts) - 1, rows.shape[1]
    out = rows.new_empty(bags, d)
    block = min(triton.next_power_of_2(d), BLOCK)
    if bags:
        with torch.cuda.device_of(rows):
            _sum_bags[(bags, triton.cdiv(d, block))](
                starts, columns, values, rows, out, d, BLOCK=block, AT_ONCE=AT_ONCE, num_warps=WARPS
            )
    return out


def dot_entries(
    row: Int[Tensor, " entries"],
    columns: Int[Tensor, " entries"],
    x: Float[Tensor, "rows d"],
    y: Float[Tensor, "columns d"],
) -> Float[Tensor, " entries"]:
    """The scalar product of the row of x and the column's row of y, for each entry; float32."""
    entries, d = len(row), x.shape[1]
    out = x.new_empty(entries)
    if entries:
        with torch.cuda.device_of(x):
            _dot_entries[(entries,)](
                row, columns, x, y, out, d, BLOCK=min(triton.next_power_of_2(d), BLOCK), num_warps=WARPS
            )
    return out


@triton.jit
def _sum_bags(starts, columns, values, rows, out, d, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    bag = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = dims < d
    start, stop = tl.load(starts + bag), tl.load(starts + bag + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(start, stop, AT_ONCE):
        entry = first + tl.arange(0, AT_ONCE)
        there = entry < stop
        column = tl.load(columns + entry, mask=there, other=0)
        value = tl.load(values + entry, mask=there, other=0.0)
        read = tl.load(rows + column[:, None] * d + dims[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        total += tl.sum(value[:, None] * read, 0)
    tl.store(out + bag * d + dims, total, mask=inside)


@triton.jit
def _dot_entries(row, columns, x, y, out, d, BLOCK: tl.constexpr):
    entry = tl.program_id(0)
    of_x, of_y = x + tl.load(row + entry) * d, y + tl.load(columns + entry) * d
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, d, BLOCK):
        dims = first + tl.arange(0, BLOCK)
        inside = dims < d
        total += tl.load(of_x + dims, mask=inside, other=0.0) * tl.load(of_y + dims, mask=inside, other=0.0)
    tl.store(out + entry, tl.sum(total, 0))
