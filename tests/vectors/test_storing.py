"""Storing activations from Python: a folder that is read back as it was given, or none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lmsae
from lmsae.errors import LmsaeError, NotEnoughTokens, ShapeError, SourceError
from lmsae.vectors import sources
from lmsae.vectors.headers import TOKEN_IDS, read_header
from lmsae.vectors.opened import Vectors
from lmsae.vectors.token_ids import StoredIds
from tests.vectors.files import made_vectors

X = made_vectors(600, 4)
IDS = torch.arange(600)


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


@pytest.mark.parametrize("shape", [(4,), (5, 4)])
def test_token_ids_beside_vectors_are_stored_apart_and_change_no_byte_of_them(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    vectors, ids = X.view(-1, *shape), IDS.view(-1, *shape[:-1])
    batches = [(vectors[:40], ids[:40]), (vectors[40:40], ids[40:40]), (vectors[40:].numpy(), ids[40:].tolist())]
    folder = lmsae.store_activations(tmp_path / "x", iter(batches), file_bytes=1000)
    plain = lmsae.store_activations(tmp_path / "plain", [vectors[:40], vectors[40:]], file_bytes=1000)
    files = sorted(file.name for file in plain.iterdir())
    assert [(folder / name).read_bytes() for name in files] == [(plain / name).read_bytes() for name in files]
    assert sorted(file.name for file in (folder / "token_ids").iterdir()) == files
    source, header = sources.resolve(str(folder / "token_ids"), lambda key, compute: compute(), TOKEN_IDS)
    assert (header.vectors, header.positions) == (600, read_header(str(folder)).positions)
    assert StoredIds(source).read(np.arange(600)).tolist() == [*range(600)]


def test_a_pair_of_vectors_or_of_contexts_is_a_batch_without_ids(tmp_path: Path) -> None:
    for name, pair, shape in (("a", (X[0], X[1]), (2, 4)), ("b", (X[:5].tolist(), X[5:10].tolist()), (2, 5, 4))):
        folder = lmsae.store_activations(tmp_path / name, [pair], dtype="float32")
        assert not (folder / "token_ids").exists()
        assert read_header(str(folder)).parts[0].shape == shape


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
        (lambda: [(X, IDS), X], ShapeError, "batch 1: has no token ids, but batch 0 has token ids"),
        (lambda: [X, (X, IDS)], ShapeError, "batch 1: has token ids, but batch 0 has no token ids"),
        (lambda: [(X, IDS[1:])], ShapeError, r"batch 0: its token ids are \(599,\); wanted: \(600,\), one for each"),
        (lambda: [(X, IDS[:, None])], ShapeError, r"batch 0: its token ids are \(600, 1\)"),
        (lambda: [(X, IDS.float())], SourceError, "batch 0: its token ids are of torch.float32; wanted: whole numbers"),
        (lambda: [(X[0], IDS[0])], ShapeError, r"batch 0: is \(4,\); wanted: \(vectors, width\)"),
        (lambda: [(X, IDS - 1)], SourceError, "batch 0: -1 is among its token ids; wanted: 0 to 1,048,575"),
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
