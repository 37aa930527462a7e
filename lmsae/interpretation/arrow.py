"""Arrays of numbers as columns of lists."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lmsae.kernels.cpu.tallies import NOBODY


def as_lists(values: np.ndarray, kind: pa.DataType, *, is_null: np.ndarray | None = None) -> pa.ListArray:
    """A list of each row of `values` (rows, items), or of those of one dimension; `is_null` masks single items."""
    rows, items = values.shape
    flat = pa.array(values.ravel(), kind.value_type, mask=None if is_null is None else is_null.ravel())
    return list_of(np.full(rows, items), flat, kind)


def list_of(
    counts: np.ndarray, items: pa.Array, kind: pa.DataType, *, is_null: np.ndarray | None = None
) -> pa.ListArray:
    """Lists of so many items each; those that `is_null` masks hold none and are null."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, items, type=kind, mask=None if is_null is None else pa.array(is_null))


def structs(kind: pa.DataType, arrays: Sequence[pa.Array | np.ndarray]) -> pa.StructArray:
    """Structs of a struct type from an array for each of its fields."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    columns = [
        array if isinstance(array, pa.Array) else pa.array(array, field.type)
        for array, field in zip(arrays, fields, strict=True)
    ]
    return pa.StructArray.from_arrays(columns, fields=fields)


def ranked(found: np.ndarray, kind: pa.DataType, *others: np.ndarray | pa.Array) -> pa.ListArray:
    """Lists of structs: of each row of `found` (rows, most) the numbers before NOBODY, and the same places of others.

    Others that are arrow arrays hold these places alone."""
    there = found != NOBODY
    arrays = [found[there], *(other if isinstance(other, pa.Array) else other[there] for other in others)]
    return list_of(there.sum(1), structs(kind.value_type, arrays), kind)
