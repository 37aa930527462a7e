"""Numba's versions, for processors, of what torch is slow at there: choosing entries of a matrix, sorting them, and
sums over them."""

from lmsae.cpu_kernels.choosing import at, can_choose, columns_above, count_above, largest, largest_of_rows
from lmsae.cpu_kernels.sums import bag_sums, can_sort, can_sum, columns_with, entry_dots, sorted_by_column

__all__ = [
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
    "sorted_by_column",
]
