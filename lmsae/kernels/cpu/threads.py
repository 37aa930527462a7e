"""How the loops are compiled, and how they are shared among threads."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from numba import njit
from numba.extending import intrinsic

SMALL = 1 << 16
"""Numbers that are worth a thread."""
STRETCHES = 8
"""For each thread: whoever is done takes another one, for not all rows are as much work."""


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code of a function, kept between processes where there is a folder for it. It does not hold the GIL, and
    may sum in any order, the same one every time."""
    options = {"nogil": True, "fastmath": {"reassoc", "contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this package's folder nor the user's cache can be written
        return njit(**options)(function)


def generated(function: Callable[..., Any]) -> Any:
    """An instruction that Numba has no name for, for compiled functions: of the types of its arguments the function
    makes a signature, and a function that writes the code."""
    return intrinsic(function)


def in_parts(rows: int, numbers: int, work: Callable[[int, int], None]) -> None:
    """Work on stretches of rows, each from a first one up to another, in up to as many threads as torch has, this one
    among them; `numbers` to work on in all."""
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
