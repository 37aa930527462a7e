"""Numba's kernels for the operations at which torch is slow on processors.

They choose entries of a matrix, sort them, sum over them, gather rows from anywhere, and compute losses of logits.
"""

from lmsae.kernels.cpu.choosing import (
    can_choose,
    count_above,
    find_above,
    find_largest,
    find_largest_of_rows,
    gather,
    order_of_equals,
)
from lmsae.kernels.cpu.ordering import argsort_words, can_sort, sort_by_column
from lmsae.kernels.cpu.rows import gather_as_float32, gather_scaled
from lmsae.kernels.cpu.rows_of_logits import can_read_logits, losses_of_rows
from lmsae.kernels.cpu.sums import can_sum, dot_entries, find_nonzero_columns, sum_bags

__all__ = [
    "argsort_words",
    "can_choose",
    "can_read_logits",
    "can_sort",
    "can_sum",
    "count_above",
    "dot_entries",
    "find_above",
    "find_largest",
    "find_largest_of_rows",
    "find_nonzero_columns",
    "gather",
    "gather_as_float32",
    "gather_scaled",
    "losses_of_rows",
    "order_of_equals",
    "sort_by_column",
    "sum_bags",
]
