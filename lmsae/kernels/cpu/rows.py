"""Rows of a matrix in any order, gathered and turned into float32.

The time goes by in waiting for memory, if rows lie anywhere in hundreds of megabytes. A prefetch of each row a few rows
ahead halves it.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lmsae.kernels.cpu.instructions import as_float32, prefetch
from lmsae.kernels.cpu.threads import compile_loop, share_among_threads

AHEAD = 4
"""The number of rows between the prefetch of a row and its turn."""
LINE_BYTES = 64
"""The bytes of a cache line, which memory delivers at a time."""
SIGN, REST, HALF_TO_FLOAT = np.int32(0x8000), np.int32(0x7FFF), np.float32(2.0**112)
"""Masks of a float16's bits, and its ratio to the float32 with the same bits: their exponents differ in bias."""
FLOAT16, BFLOAT16, FLOAT32 = 0, 1, 2
KINDS = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.float32: FLOAT32}
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def gather_as_float32(rows: Float[Tensor, "rows width"], taken: Int[Tensor, " taken"]) -> Float[Tensor, "taken width"]:
    """Gather rows of finite float16, bfloat16 or float32 values as float32, exactly."""
    assert _all_within(taken, len(rows))
    into = torch.empty(len(taken), rows.shape[1])
    bits, kind = rows.view(BITS[rows.dtype]).numpy(), KINDS[rows.dtype]
    indices, out = taken.numpy(), into.numpy()
    share_among_threads(
        len(taken), into.numel(), lambda start, stop: _gather_as_float32(bits, kind, indices, out, start, stop)
    )
    return into


def gather_scaled(
    rows: Shaped[Tensor, "rows items"],
    taken: Int[Tensor, " taken"],
    mean: Float[Tensor, " width"],
    std: Float[Tensor, " width"],
) -> Float[Tensor, "taken width"]:
    """Gather mean + std * scale * q, float32, from rows of int8: q, and behind it the bytes of scale, a float32."""
    assert rows.dtype == torch.int8
    assert _all_within(taken, len(rows))
    into = torch.empty(len(taken), len(mean))
    arrays = rows.numpy(), taken.numpy(), mean.numpy(), std.numpy(), into.numpy()
    share_among_threads(len(taken), into.numel(), lambda start, stop: _gather_scaled(*arrays, start, stop))
    return into


def _all_within(taken: Tensor, rows: int) -> bool:
    """True if all indices are rows: the loops check no bounds."""
    return not len(taken) or bool(taken.min() >= 0 and taken.max() < rows)


@compile_loop
def _prefetch_row(rows, taken, at, stop):
    if at < stop:
        for item in range(0, rows.shape[1], LINE_BYTES // rows.itemsize):
            prefetch(rows, taken[at], item)


@compile_loop
def _gather_as_float32(bits, kind, taken, into, start, stop):
    for i in range(start, min(start + AHEAD, stop)):
        _prefetch_row(bits, taken, i, stop)
    for i in range(start, stop):
        _prefetch_row(bits, taken, i + AHEAD, stop)
        row, out = bits[taken[i]], into[i]
        if kind == FLOAT16:
            for j in range(out.size):
                wide = np.int32(row[j])
                bits_of_float = np.int32((wide & REST) << np.int32(13) | (wide & SIGN) << np.int32(16))
                out[j] = as_float32(bits_of_float) * HALF_TO_FLOAT
        elif kind == BFLOAT16:
            for j in range(out.size):
                out[j] = as_float32(np.int32(np.int32(row[j]) << np.int32(16)))
        else:
            for j in range(out.size):
                out[j] = as_float32(np.int32(row[j]))


@compile_loop
def _gather_scaled(rows, taken, mean, std, into, start, stop):
    width, scale_bits = into.shape[1], np.empty(1, np.int32)
    scale_bytes, scales = scale_bits.view(np.int8), scale_bits.view(np.float32)
    for i in range(start, min(start + AHEAD, stop)):
        _prefetch_row(rows, taken, i, stop)
    for i in range(start, stop):
        _prefetch_row(rows, taken, i + AHEAD, stop)
        row, out = rows[taken[i]], into[i]
        scale_bytes[:] = row[width : width + 4]
        scale = scales[0]
        for j in range(width):
            out[j] = mean[j] + np.float32(row[j]) * scale * std[j]
