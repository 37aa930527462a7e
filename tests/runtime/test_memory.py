"""Memory: the most in use, of a stretch of work and not of the process's whole life."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lmsae.runtime.memory import collect_new_garbage_only, peak_memory, says_no_memory

MB = 1_000_000
# In a process of its own: this one may have been told to keep freed memory.
FORGET = """
import gc
import json
from lmsae.runtime.memory import forget_peak, peak_memory
peaks = [peak_memory()["host"]]
block = b"x" * 200_000_000
del block
peaks.append(peak_memory()["host"])
forget_peak()
peaks.append(peak_memory()["host"])
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_a_peak_is_seen_after_it_has_passed_and_can_be_forgotten() -> None:
    said = subprocess.run([sys.executable, "-c", FORGET], capture_output=True, text=True, check=True).stdout
    before, highest, after = json.loads(said)
    assert highest > before + 150 * MB
    assert after < highest - 150 * MB


def test_without_cuda_there_is_no_peak_of_a_device() -> None:
    import torch

    assert ("device" in peak_memory()) == torch.cuda.is_available()


def test_garbage_made_since_is_collected_and_what_was_there_is_spared() -> None:
    class Loop:
        def __init__(self) -> None:
            self.itself = self

    old, frozen = weakref.ref(Loop()), gc.get_freeze_count()
    assert old() is not None
    with collect_new_garbage_only():
        new = weakref.ref(Loop())
        gc.collect()
        assert (old() is None, new() is None) == (False, True)
    gc.collect()
    assert old() is None
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60), lambda: np.empty(2**57), lambda: bytearray(2**60)])
def test_an_error_for_want_of_memory_is_known_in_every_library(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert says_no_memory(caught.value)


def test_other_errors_are_not_for_want_of_memory() -> None:
    assert not says_no_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
