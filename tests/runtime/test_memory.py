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

from lmsae.errors import NoMemoryError, SourceError
from lmsae.runtime.memory import collect_new_garbage_only, explain_no_memory, peak_memory, says_no_memory

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
    told = explain_no_memory(caught.value, "train", "lower train.batch_size")
    assert isinstance(told, NoMemoryError)
    assert told.__cause__ is caught.value
    assert str(told).startswith(f"train: out of memory ({type(caught.value).__name__}")
    assert "Lower train.batch_size, or give it more memory, and run again" in str(told)


def test_other_errors_are_not_for_want_of_memory() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), SourceError("out of memory, it says")):
        assert not says_no_memory(error)
        assert explain_no_memory(error, "train", "lower it") is error


# What threads, libraries and mappings say under a limit of addresses, in a process of its own.
LIMITED = """
import mmap, resource, sys, threading
resource.setrlimit(resource.RLIMIT_AS, (300_000_000, 300_000_000))
from lmsae.runtime.memory import explain_no_memory
def start():
    threading.stack_size(290_000_000)
    threading.Thread(target=print).start()
works = {"map": lambda: mmap.mmap(-1, 10**9), "thread": start, "library": lambda: __import__("torch")}
try:
    works[sys.argv[1]]()
except Exception as error:
    print(type(error).__name__, "|", type(explain_no_memory(error, "train", "lower it")).__name__)
    print(explain_no_memory(error, "train", "lower it"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such limits")
@pytest.mark.parametrize(
    ("work", "error"), [("map", "OSError"), ("thread", "RuntimeError"), ("library", "ImportError")]
)
def test_what_fails_under_a_limit_of_addresses_is_for_want_of_memory(work: str, error: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, work], capture_output=True, text=True, check=True)
    kind, told = done.stdout.splitlines()[:2]
    assert kind == f"{error} | NoMemoryError", done
    assert "the limit of `ulimit -v`, 300 MB" in told
