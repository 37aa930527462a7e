"""Instructions of the processor that Numba has no name for."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.context import Context
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


class Builder(Protocol):
    """The part of llvmlite's IRBuilder that is used here: its own functions have no types."""

    module: ir.Module

    def bitcast(self, value: ir.Value, typ: ir.Type) -> ir.NamedValue: ...
    def call(self, fn: ir.Value, args: Sequence[ir.Value]) -> ir.Value: ...


Generate = Callable[[BaseContext, Builder, Signature, Sequence[ir.Value]], ir.Value]
"""Writes the code of an instruction."""


def define_instruction(function: Callable[..., object]) -> Callable[..., Any]:
    """Define an instruction, which Numba has no name for, for compiled functions.

    From the types of the arguments, the function makes a signature and a function that writes the code.
    """
    return intrinsic(function)


@define_instruction
def prefetch(
    typing: Context, array: types.Array, row: types.Integer, item: types.Integer
) -> tuple[Signature, Generate]:
    """Ask for an item of a matrix to be brought into the cache, without waiting."""

    def generate(
        context: BaseContext, builder: Builder, signature: Signature, arguments: Sequence[ir.Value]
    ) -> ir.Value:
        of = signature.args[0]
        struct = context.make_array(of)(context, builder, arguments[0])
        item = cgutils.get_item_pointer(context, builder, of, struct, list(arguments[1:]), wraparound=False)
        pointer, i32 = builder.bitcast(item, ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(prefetch, [pointer, i32(0), i32(3), i32(1)])  # to read, soon, data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


@define_instruction
def as_float32(typing: Context, bits: types.Integer) -> tuple[Signature, Generate]:
    """The float32 that has these 32 bits."""
    return types.float32(types.int32), _cast_to(ir.FloatType())


@define_instruction
def as_float64(typing: Context, bits: types.Integer) -> tuple[Signature, Generate]:
    """The float64 that has these 64 bits."""
    return types.float64(types.int64), _cast_to(ir.DoubleType())


def _cast_to(kind: ir.Type) -> Generate:
    """The code that takes the bits of its argument for those of another type."""

    def generate(
        context: BaseContext, builder: Builder, signature: Signature, arguments: Sequence[ir.Value]
    ) -> ir.Value:
        return builder.bitcast(arguments[0], kind)

    return generate
