"""Rows of a matrix in any order, turned into float32 on the way.

Rows that lie anywhere in hundreds of megabytes are waited for, not computed: asking for each a few rows before it is
taken, which Numba has no name for, halves the time.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from llvmlite import ir
from numba import types
from numba.core import cgutils
from torch import Tensor

from lmsae.kernels.cpu.threads import compiled, generated, in_parts

AHEAD = 4
"""How many rows before its turn a row is asked for."""
LINE_BYTES = 64
"""What memory hands out at a time."""
SIGN, REST, HALF_TO_FLOAT = np.int32(0x8000), np.int32(0x7FFF), np.float32(2.0**112)
"""Bits of a float16; and how many times too small a float32 is that has its bits, for exponents begin elsewhere."""
FLOAT16, BFLOAT16, FLOAT32 = 0, 1, 2
KINDS = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.float32: FLOAT32}
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def rows_as_float32(rows: Float[Tensor, "rows width"], taken: Int[Tensor, " taken"]) -> Float[Tensor, "taken width"]:
    """Rows of finite float16, bfloat16 or float32 values, exactly."""
    assert _all_within(taken, len(rows))
    into = torch.empty(len(taken), rows.shape[1])
    bits, kind = rows.view(BITS[rows.dtype]).numpy(), KINDS[rows.dtype]
    places, out = taken.numpy(), into.numpy()
    in_parts(len(taken), into.numel(), lambda start, stop: _rows_as_float32(bits, kind, places, out, start, stop))
    return into


def rows_scaled(
    rows: Shaped[Tensor, "rows items"],
    taken: Int[Tensor, " taken"],
    mean: Float[Tensor, " width"],
    std: Float[Tensor, " width"],
) -> Float[Tensor, "taken width"]:
    """mean + std * scale * q, float32, of rows of int8: q, and behind it the four bytes of the scale, a float32."""
    assert rows.dtype == torch.int8
    assert _all_within(taken, len(rows))
    into = torch.empty(len(taken), len(mean))
    arrays = rows.numpy(), taken.numpy(), mean.numpy(), std.numpy(), into.numpy()
    in_parts(len(taken), into.numel(), lambda start, stop: _rows_scaled(*arrays, start, stop))
    return into


def _all_within(taken: Tensor, rows: int) -> bool:
    """Loops without bounds rely on it."""
    return not len(taken) or bool(taken.min() >= 0 and taken.max() < rows)


@generated
def _ask_for(typing: Any, array: types.Array, row: types.Integer, item: types.Integer) -> Any:
    """Have an item of a matrix brought into the cache, and wait for nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args[0]
        struct = context.make_array(of)(context, builder, arguments[0])
        item = cgutils.get_item_pointer(context, builder, of, struct, list(arguments[1:]), wraparound=False)
        pointer, i32 = builder.bitcast(item, ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(prefetch, [pointer, i32(0), i32(3), i32(1)])  # to read, soon, data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


@generated
def _float(typing: Any, bits: types.Integer) -> Any:
    """The float32 that has these 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def _ask_for_row(rows, taken, at, stop):
    if at < stop:
        for item in range(0, rows.shape[1], LINE_BYTES // rows.itemsize):
            _ask_for(rows, taken[at], item)


@compiled
def _rows_as_float32(bits, kind, taken, into, start, stop):
    for i in range(start, min(start + AHEAD, stop)):
        _ask_for_row(bits, taken, i, stop)
    for i in range(start, stop):
        _ask_for_row(bits, taken, i + AHEAD, stop)
        row, out = bits[taken[i]], into[i]
        if kind == FLOAT16:
            for j in range(out.size):
                wide = np.int32(row[j])
                bits_of_float = np.int32((wide & REST) << np.int32(13) | (wide & SIGN) << np.int32(16))
                out[j] = _float(bits_of_float) * HALF_TO_FLOAT
        elif kind == BFLOAT16:
            for j in range(out.size):
                out[j] = _float(np.int32(np.int32(row[j]) << np.int32(16)))
        else:
            for j in range(out.size):
                out[j] = _float(np.int32(row[j]))


@compiled
def _rows_scaled(rows, taken, mean, std, into, start, stop):
    width, scale_bits = into.shape[1], np.empty(1, np.int32)
    scale_bytes, scales = scale_bits.view(np.int8), scale_bits.view(np.float32)
    for i in range(start, min(start + AHEAD, stop)):
        _ask_for_row(rows, taken, i, stop)
    for i in range(start, stop):
        _ask_for_row(rows, taken, i + AHEAD, stop)
        row, out = rows[taken[i]], into[i]
        scale_bytes[:] = row[width : width + 4]
        scale = scales[0]
        for j in range(width):
            out[j] = mean[j] + np.float32(row[j]) * scale * std[j]
