"""Storing activations from Python: a folder that is read back as it was given, or none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lmsae
from lmsae.errors import LmsaeError, NotEnoughTokens, ShapeError, SourceError
from lmsae.vectors.headers import read_header
from lmsae.vectors.opened import Vectors
from tests.vectors.files import made_vectors

X = made_vectors(600, 4)


def test_batches_of_any_library_and_size_come_back_in_their_order(tmp_path: Path) -> None:
    batches = (X[:100], X[100:101].numpy(), X[101:101], X[101:].tolist() and np.asarray(X[101:]))
    folder = lmsae.store_activations(tmp_path / "new" / "x", batches, file_bytes=1000)
    assert len([*folder.iterdir()]) > 1
    assert torch.equal(Vectors(read_header(str(folder))).read(0, 600), X)


def test_a_batch_whose_memory_is_filled_anew_is_stored_as_it_was(tmp_path: Path) -> None:
    def filled() -> Iterator[torch.Tensor]:
        memory = torch.empty(100, 4)
        for part in X.split(100):
            yield memory.copy_(part)

    folder = lmsae.store_activations(tmp_path / "x", filled())
    assert torch.equal(Vectors(read_header(str(folder))).read(0, 600), X)


def test_a_dtype_is_that_of_the_first_batch_or_the_one_asked_for(tmp_path: Path) -> None:
    for name, dtype, wanted in (("a", None, torch.float64), ("b", "bfloat16", torch.bfloat16)):
        folder = lmsae.store_activations(tmp_path / name, [X.double()], dtype=dtype)
        assert load_file(folder / "000000.safetensors")["activations"].dtype == wanted


def broken() -> Iterator[torch.Tensor]:
    yield X
    raise RuntimeError("the other framework failed")


@pytest.mark.parametrize(
    ("batches", "error", "told"),
    [
        (lambda: [], NotEnoughTokens, "there was no vector"),
        (lambda: [X, X[:, :3]], ShapeError, r"batch 1: is \(600, 3\); wanted: like \(600, 4\)"),
        (lambda: [X[0]], ShapeError, r"batch 0: is \(4,\); wanted: \(vectors, width\)"),
        (lambda: [X.long()], SourceError, "batch 0: is of torch.int64; wanted: floats"),
        (lambda: [X, X / 0], SourceError, "batch 1: a value is not finite"),
        (lambda: [["a"]], SourceError, "batch 0: is no array of numbers"),
        (broken, RuntimeError, "the other framework failed"),
    ],
)
def test_what_goes_wrong_leaves_no_folder(
    batches: Callable[[], list[torch.Tensor]], error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        lmsae.store_activations(tmp_path / "x", batches(), file_bytes=1)
    assert [*tmp_path.iterdir()] == []


def test_what_becomes_infinite_in_the_dtype_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="batch 0: a value is not finite as float16"):
        lmsae.store_activations(tmp_path / "x", [X * 1e6], dtype="float16")


def test_a_folder_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    lmsae.store_activations(tmp_path / "x", [X])
    with pytest.raises(LmsaeError, match="is there already"):
        lmsae.store_activations(tmp_path / "x", [X])
