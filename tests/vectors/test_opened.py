"""Opened files: any stretch of vectors is what was written, whatever form it lies in, with bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmsae.errors import SourceError
from lmsae.store.layout import Layout
from lmsae.store.writer import StoreWriter
from lmsae.vectors.headers import read_header
from lmsae.vectors.opened import Vectors, read_some
from tests.vectors.files import made_vectors, write_folder, write_zarr

X = made_vectors(600, 4)
FORMS = ["folder", "contexts", "zarr2", "zarr3", "store"]


def written(form: str, folder: Path) -> Vectors:
    if form in ("folder", "contexts"):
        path = write_folder(folder / "x", X if form == "folder" else X.view(120, 5, 4), (17, 90))
    elif form == "store":
        path = folder / "x"
        with StoreWriter(path, Layout(120, 5, 4, "float32")) as writer:
            writer.append(X.view(120, 5, 4))
    else:
        path = write_zarr(folder / "x", X.view(120, 5, 4), version=int(form[-1]), chunk=7)
    return Vectors(read_header(str(path)))


@pytest.mark.parametrize("form", FORMS)
def test_any_stretch_is_what_was_written(form: str, tmp_path: Path) -> None:
    vectors = written(form, tmp_path)
    for start, stop in ((0, 600), (3, 4), (83, 452), (598, 600), (0, 1)):
        assert torch.equal(vectors.read(start, stop), X[start:stop])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("numbers", [[5, 6, 7, 9], [0, 300, 301, 599], [4]])
def test_vectors_are_found_by_their_numbers(form: str, numbers: list[int], tmp_path: Path) -> None:
    assert torch.equal(read_some(written(form, tmp_path), torch.tensor(numbers)), X[numbers])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_is_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"x": X.to(dtype)}, tmp_path / "a.safetensors")
    assert torch.equal(Vectors(read_header(str(tmp_path))).read(0, 600), X.to(dtype).float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_told_with_file_tensor_and_place(bad: float, tmp_path: Path) -> None:
    broken = X.clone()
    broken[70, 2] = bad
    vectors = Vectors(read_header(str(write_folder(tmp_path / "x", broken, (17,)))))
    assert torch.equal(vectors.read(0, 70), X[:70])
    with pytest.raises(SourceError, match=rf"1.safetensors, tensor 'x': vector 53 is {bad} in column 2"):
        vectors.read(60, 80)
    contexts = Vectors(read_header(str(write_zarr(tmp_path / "z", broken.view(120, 5, 4)))))
    with pytest.raises(SourceError, match=rf"z: context 14, position 0 is {bad}"):
        contexts.read(0, 80)


def test_a_damaged_chunk_is_told_with_its_array(tmp_path: Path) -> None:
    vectors = written("zarr3", tmp_path)
    chunk = next(file for file in sorted((tmp_path / "x" / "c").rglob("*")) if file.is_file())
    chunk.write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"x: vectors 0 to 10 cannot be read"):
        vectors.read(0, 10)


def test_memory_is_that_of_a_stretch_and_not_of_the_file(tmp_path: Path) -> None:
    """A file of 400 MB is read, piece by piece, in less than 150 MB above what the libraries take."""
    write_zarr(tmp_path / "z", torch.ones(400_000, 256), chunk=8192)
    code = (
        "import resource, sys\n"
        "from lmsae.vectors.headers import read_header\n"
        "from lmsae.vectors.opened import Vectors\n"
        "v = Vectors(read_header(sys.argv[1])); v.read(0, 10)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for start in range(0, 400_000, 8000): v.read(start, start + 8000)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "z")], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 150e6
