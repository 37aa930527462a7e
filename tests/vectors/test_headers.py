"""Headers of files of vectors: what each form is read as, and what is told of those that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zarr
from safetensors.torch import save_file

from lmsae.errors import SourceError
from lmsae.store.layout import Layout
from lmsae.store.writer import StoreWriter
from lmsae.vectors.headers import read_header
from tests.vectors.files import made_vectors, write_folder, write_zarr

X = made_vectors(60, 4)


def save(tensors: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path / "a.safetensors")


def test_a_folder_of_safetensors_is_its_files_by_name(tmp_path: Path) -> None:
    header = read_header(str(write_folder(tmp_path / "f", X, (10, 30))))
    assert [part.path.name for part in header.parts] == ["0.safetensors", "1.safetensors", "2.safetensors"]
    assert (header.vectors, header.width, header.positions) == (60, 4, None)


def test_one_of_several_tensors_is_named_behind_the_path(tmp_path: Path) -> None:
    save({"a": X, "b": X.half()})(tmp_path)
    header = read_header(f"{tmp_path / 'a.safetensors'}#b")
    assert [(part.tensor, part.dtype) for part in header.parts] == [("b", "float16")]


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_array_of_both_versions_has_its_shape_without_zarr(tmp_path: Path, version: int) -> None:
    header = read_header(str(write_zarr(tmp_path / "z", X.view(12, 5, 4), version=version)))
    assert (header.vectors, header.width, header.positions) == (60, 4, 5)


def test_an_array_of_a_zarr_group_is_named_or_the_only_one(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g")
    write_zarr(tmp_path / "g" / "one", X)
    assert read_header(str(tmp_path / "g")).vectors == 60
    write_zarr(tmp_path / "g" / "two", X[:50])
    assert read_header(f"{tmp_path / 'g'}#two").vectors == 50
    with pytest.raises(SourceError, match=r"holds 2 arrays \(one, two\); name one behind the path"):
        read_header(str(tmp_path / "g"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_a_store_of_lmsae_has_the_width_of_its_activations(tmp_path: Path, dtype: str) -> None:
    with StoreWriter(tmp_path / "s", Layout(12, 5, 4, dtype)) as writer:  # pyright: ignore[reportArgumentType]
        writer.append(X.view(12, 5, 4))
    header = read_header(str(tmp_path / "s"))
    assert (header.vectors, header.width, header.positions) == (60, 4, 5)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (save({"x": X.view(3, 4, 5, 4)}), r"a.safetensors, tensor 'x': has 4 dimensions \(3, 4, 5, 4\); wanted"),
        (save({"x": X[:, 0].contiguous()}), "tensor 'x': has 1 dimensions"),
        (save({"x": X[:0]}), r"tensor 'x': is empty \(0, 4\)"),
        (save({"x": X.long()}), "tensor 'x': is of I64; wanted: F16, BF16, F32, F64"),
        (save({"x": X, "y": X.clone()}), r"holds 2 tensors \(x, y\); name one behind the path"),
        (lambda path: (path / "a.safetensors").write_bytes(b"\x01"), "cannot be read as safetensors .it is cut off"),
        (lambda path: (path / "a.txt").write_text("x"), "holds neither a Zarr array nor .safetensors files"),
        (lambda path: write_zarr(path / "inner", X.long()).rename(path / "z"), "neither a Zarr array"),
        (lambda path: (path / "zarr.json").write_text("{"), "zarr.json: cannot be read"),
        (lambda path: (path / "zarr.json").write_text(json.dumps({"shape": "x"})), "tell no shape"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_tensor(
    write: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(SourceError, match=told):
        read_header(str(tmp_path))


def test_an_array_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is of 'int64'; wanted: float16, float32 or float64"):
        read_header(str(write_zarr(tmp_path / "z", X.long())))


def test_files_of_two_widths_are_refused_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", X, ())
    save_file({"x": X[:, :3].contiguous()}, tmp_path / "f" / "1.safetensors")
    with pytest.raises(
        SourceError, match=r"1.safetensors, tensor 'x': is \(60, 3\), but .*0.safetensors.* is \(60, 4\)"
    ):
        read_header(str(tmp_path / "f"))


def test_a_file_that_was_cut_off_is_told_before_it_is_read(tmp_path: Path) -> None:
    file = write_folder(tmp_path / "f", X, ()) / "0.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SourceError, match="it is cut off"):
        read_header(str(file))


def test_a_path_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    write_folder(tmp_path / "clip", X, ())
    with pytest.raises(SourceError, match="there is no such file or folder; did you mean clip"):
        read_header(str(tmp_path / "clib"))
