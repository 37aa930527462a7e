"""Training on a GPU: what the CPU learns, without waiting for the GPU where nothing asks for a number."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lmsae.kernels import entries
from lmsae.planning.catalog import CATALOG
from lmsae.training.batch import move_to_device
from lmsae.training.run import Run
from lmsae.training.together import train_together
from tests.training.runs import Stream, train

pytestmark = pytest.mark.gpu


def moved(run: Run) -> Run:
    """The run, not yet begun, on the GPU."""
    return Run(run.dictionary.to("cuda"), run.objective, run.config, run.name)


@contextmanager
def never_waiting() -> Iterator[None]:
    """Within, every operation that waits for the GPU raises RuntimeError."""
    with warnings.catch_warnings(action="ignore"):  # PyTorch's that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "at entries"])
@pytest.mark.parametrize("name", list(CATALOG))
def test_every_architecture_learns_what_it_learns_on_the_cpu(
    name: str, share: float, make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "SPARSE_SHARE_ON_GPU", share)
    batches = batches_for(name)
    on_cpu, on_gpu = make_run(name, 10), moved(make_run(name, 10))
    train([on_cpu], batches)
    assert list(train_together([on_gpu], Stream(batches), "cuda", lambda tokens: None)) == [on_gpu]
    for wanted, found in zip(on_cpu.curves, on_gpu.curves, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=2e-3)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "abstopk", "groupmax", "transcoder"])
def test_a_step_does_not_wait_for_the_gpu(
    name: str, make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "SPARSE_SHARE_ON_GPU", 1.0)
    batches = batches_for(name)
    run = moved(make_run(name, 1000, dead_threshold=1_000_000))
    steps = move_to_device(Stream(batches).batches(0, 4), "cuda")
    for _ in range(3):
        run.step(next(steps))
    with never_waiting():
        run.step(next(steps))  # step 3 is not recorded in the curves


def test_batches_arrive_as_they_were(batches_for: Any) -> None:
    for name in ("topk", "transcoder", "lorsa"):
        batches = batches_for(name)
        for there, here in zip(move_to_device(batches, "cuda"), batches, strict=True):
            assert there.tokens == here.tokens
            assert (there.target is there.x) == (here.target is here.x)
            for part in ("x", "target", "usable"):
                if getattr(here, part) is not None:
                    assert torch.equal(getattr(there, part).cpu(), getattr(here, part))
