"""Token ids beside vectors: found by the numbers of vectors in whatever form they lie, and refused if they are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lmsae.errors import ChangedSource, SourceError
from lmsae.vectors import sources
from lmsae.vectors.headers import TOKEN_IDS, read_header
from lmsae.vectors.token_ids import StoredIds
from tests.vectors.files import write_folder, write_zarr

IDS = torch.randint(0, 250, (600,), generator=torch.Generator().manual_seed(0))


def opened(path: Path) -> StoredIds:
    return StoredIds(sources.resolve(str(path), lambda key, compute: compute(), TOKEN_IDS)[0])


def written(form: str, dtype: str, folder: Path) -> StoredIds:
    ids = IDS if form in ("list", "zarr") else IDS.view(120, 5)
    stored = np.asarray(ids).astype(dtype)
    if form.startswith("zarr"):
        return opened(write_zarr(folder / "x", torch.from_numpy(stored), version=2 + form.endswith("s"), chunk=7))
    return opened(write_folder(folder / "x", torch.from_numpy(stored), (17, 90)))


@pytest.mark.parametrize("form", ["list", "contexts", "zarr", "zarr of contexts"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint16", "uint32"])
def test_ids_are_found_by_the_numbers_of_vectors(form: str, dtype: str, tmp_path: Path) -> None:
    ids = written(form, dtype, tmp_path)
    for numbers in (np.arange(600), np.array([[5, 6, 7], [301, 302, 303]]), np.array([599], np.uint16)):
        found = ids.read(numbers, 250)
        assert found.tolist() == IDS[torch.from_numpy(numbers.astype(int))].tolist()
        assert found.dtype == np.uint16


def test_more_ids_than_are_read_at_once_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.vectors.token_ids.READ_AT_ONCE", 50)
    numbers = np.random.default_rng(0).permutation(600)
    assert written("list", "int32", tmp_path).read(numbers).tolist() == IDS[numbers].tolist()


@pytest.mark.parametrize(
    ("form", "odd", "told"),
    [
        ("list", -1, "1.safetensors, tensor 'x': vector 53 has the token id -1; wanted: 0 to 249, those of gpt2"),
        ("zarr of contexts", 250, "x: context 14, position 0 has the token id 250; wanted: 0 to 249"),
        ("list", 2**40, "has the token id 1099511627776; wanted"),
    ],
)
def test_an_id_beyond_the_vocabulary_is_told_with_its_place(form: str, odd: int, told: str, tmp_path: Path) -> None:
    broken = IDS.clone()
    broken[70] = odd
    path, in_list = tmp_path / "x", form == "list"
    ids = opened(write_folder(path, broken, (17,)) if in_list else write_zarr(path, broken.view(120, 5)))
    assert len(ids.read(np.arange(70), 250)) == 70
    with pytest.raises(SourceError, match=told):
        ids.read(np.arange(60, 80), 250, "gpt2")


def test_files_that_changed_since_they_were_pinned_or_opened_are_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "x", IDS, ())
    source, _ = sources.resolve(str(path), lambda key, compute: compute(), TOKEN_IDS)
    ids = StoredIds(source)
    save_file({"x": np.zeros(600, np.int32)}, path / "0.safetensors")
    with pytest.raises(ChangedSource, match="the files changed while they were read"):
        ids.read(np.arange(10))
    with pytest.raises(ChangedSource, match="the files are not those that were planned"):
        StoredIds(source)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: write_folder(path, IDS.float(), ()), "is of F32; wanted: I8, I16, I32, I64, U8, U16, U32"),
        (lambda path: write_zarr(path, IDS.double()), "is of 'float64'; wanted: whole numbers: int8"),
        (
            lambda path: write_folder(path, IDS.view(30, 5, 4), ()),
            r"has 3 dimensions \(30, 5, 4\); wanted: \(vectors\) ",
        ),
        (lambda path: write_folder(path, IDS.bool(), ()), "is of BOOL"),
    ],
)
def test_arrays_that_hold_no_ids_are_refused_by_their_headers(
    write: Callable[[Path], Path], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=told):
        read_header(str(write(tmp_path / "x")), TOKEN_IDS)


def test_ids_lie_beside_vectors_in_the_same_files_by_their_own_name(tmp_path: Path) -> None:
    tensors = {"activations": np.zeros((600, 4), np.float32), "token_ids": np.asarray(IDS, np.int32)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert opened(tmp_path).read(np.arange(600)).tolist() == IDS.tolist()
    assert read_header(str(tmp_path)).width == 4
