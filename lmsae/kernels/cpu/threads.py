"""The compilation of loops, and their distribution among threads."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from numba import njit

SMALL = 1 << 16
"""The numbers that are worth a thread."""
STRETCHES = 8
"""The stretches for each thread. Rows differ in work, so a thread that is done takes another stretch."""

P = ParamSpec("P")
R = TypeVar("R")


def compile_loop(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code, which stays between processes if there is a folder for it.

    The code does not hold the GIL. It may sum in any order, but always in the same one.
    """
    options = {"nogil": True, "fastmath": {"reassoc", "contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this package's folder nor the user's cache can be written
        return njit(**options)(function)


def share_among_threads(rows: int, numbers: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` for stretches of the rows, in at most as many threads as torch has.

    This thread is one of them. `numbers` are the numbers to work on in all; few are not worth another thread.
    """
    threads = min(torch.get_num_threads(), numbers // SMALL + 1)
    parts = min(STRETCHES * threads, rows) if threads > 1 else 1
    stretches = deque((rows * part // parts, rows * (part + 1) // parts) for part in range(parts))

    def take_all() -> None:
        while True:
            try:
                stretch = stretches.popleft()
            except IndexError:
                return
            work(*stretch)

    others = [_pool(torch.get_num_threads() - 1).submit(take_all) for _ in range(threads - 1)]
    take_all()
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lmsae-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay behind
