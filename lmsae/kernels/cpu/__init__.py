"""Numba's versions, for processors, of what torch is slow at there: choosing entries of a matrix, sorting them, sums
over them, and rows taken from anywhere."""

from lmsae.kernels.cpu.choosing import at, can_choose, columns_above, count_above, largest, largest_of_rows
from lmsae.kernels.cpu.ordering import argsort_words, can_sort, sorted_by_column
from lmsae.kernels.cpu.rows import rows_as_float32, rows_scaled
from lmsae.kernels.cpu.sums import bag_sums, can_sum, columns_with, entry_dots

__all__ = [
    "argsort_words",
    "at",
    "bag_sums",
    "can_choose",
    "can_sort",
    "can_sum",
    "columns_above",
    "columns_with",
    "count_above",
    "entry_dots",
    "largest",
    "largest_of_rows",
    "rows_as_float32",
    "rows_scaled",
    "sorted_by_column",
]
