"""Headers of files of vectors, and of token ids beside them: shapes and dtypes by a few bytes of JSON, without torch
or zarr.

A name is a path: a Zarr array of version 2 or 3, a Zarr group that holds one, a `.safetensors` file, or a folder of
those. Behind `#` stands the name of the array or tensor, where there are several.
"""

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmsae.config import JsonObject, parse_json
from lmsae.errors import SourceError, suggest

SAFETENSORS = ".safetensors"
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The floats of safetensors, by their name there."""
ID_DTYPES = {
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32)},
}
"""The whole numbers of safetensors that int64 holds, by their name there."""
_CODES = ("i2", "i4", "i8", "u2", "u4")
"""The same of more than a byte, as NumPy writes them behind the order of their bytes."""
OWN = ("bfloat16", "int8")
"""The dtypes that lmsae's own stores encode, by their attribute `dtype`."""
MOST_VECTORS = 2**32
_LONGEST_HEADER = 100 << 20
"""Bytes; the library's own limit."""
_METADATA = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The contents of arrays: vectors, or a token id for each of them."""

    default: str
    """The name of the array or tensor that is meant where there are several."""
    dtypes: Mapping[str, str]
    """Of safetensors, by their name there."""
    zarr_dtypes: Set[str]
    """Of Zarr arrays: by name in version 3, by NumPy's code in version 2."""
    dtypes_wanted: str
    """Of Zarr arrays, for people."""
    dimensions: tuple[int, int]
    """Of a list, and of contexts."""
    shapes_wanted: str


VECTORS = Contents(
    default="activations",
    dtypes=DTYPES,
    zarr_dtypes={"float16", "float32", "float64", "<f2", "<f4", "<f8", ">f2", ">f4", ">f8"},
    dtypes_wanted="float16, float32 or float64",
    dimensions=(2, 3),
    shapes_wanted="(vectors, width) or (contexts, positions, width)",
)
TOKEN_IDS = Contents(
    default="token_ids",
    dtypes=ID_DTYPES,
    zarr_dtypes={*ID_DTYPES.values(), "|i1", "|u1", *(f"{end}{kind}" for end in "<>" for kind in _CODES)},
    dtypes_wanted="whole numbers: " + ", ".join(ID_DTYPES.values()),
    dimensions=(1, 2),
    shapes_wanted="(vectors) or (contexts, positions)",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One array in a file, of vectors or of their token ids."""

    path: Path
    """The file, or the folder of the Zarr array."""
    tensor: str
    """Its name in the file; empty for a Zarr array that a path names."""
    shape: tuple[int, ...]
    dtype: str
    contents: Contents = VECTORS
    is_own: bool = False
    """True for a store of lmsae's own."""

    @property
    def width(self) -> int:
        """Numbers of a vector; of token ids 1."""
        return self.shape[-1] if self.contents is VECTORS else 1

    @property
    def positions(self) -> int:
        """Positions of a context; 1 where vectors stand in none."""
        return self.shape[1] if len(self.shape) == self.contents.dimensions[1] else 1

    @property
    def vectors(self) -> int:
        """The number of vectors, or of token ids."""
        return math.prod(self.shape) // self.width

    def __str__(self) -> str:
        return f"{self.path}, tensor {self.tensor!r}" if self.tensor else str(self.path)


@dataclass(frozen=True, slots=True)
class Header:
    """All that a name stands for: parts whose vectors follow each other, and the file or folder that holds them."""

    kind: Literal["safetensors", "zarr"]
    parts: Sequence[Part]
    root: Path

    @property
    def files(self) -> list[Path]:
        """Every file that holds any of it, by name."""
        if self.kind == "safetensors":
            return [part.path for part in self.parts]
        return sorted(file for file in self.root.rglob("*") if file.is_file())

    @property
    def width(self) -> int:
        return self.parts[0].width

    @property
    def positions(self) -> int | None:
        """Positions of a context; None where vectors stand in no contexts."""
        positions = self.parts[0].positions
        return positions if positions > 1 else None

    @property
    def vectors(self) -> int:
        """The number of vectors."""
        return sum(part.vectors for part in self.parts)


def read_header(name: str, contents: Contents = VECTORS) -> Header:
    """The header of what a name stands for.

    Raises SourceError, with file and tensor, where there is nothing, nothing of such contents, or arrays that do not
    go together.
    """
    path, tensor = _split(name)
    if not path.exists():
        near = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise SourceError(f"{path}: there is no such file or folder{suggest(path.name, near) or '.'}")
    if path.is_dir() and any((path / file).is_file() for file in _METADATA):
        part = _zarr_part(path, tensor, contents)
        header = Header("zarr", [part], part.path)
    else:
        files = _safetensors_files(path)
        header = Header("safetensors", [_tensor_part(file, tensor, contents) for file in files], path)
    _require_fit(header, contents)
    return header


def _split(name: str) -> tuple[Path, str]:
    path, _, tensor = name.rpartition("#") if "#" in name else (name, "", "")
    return Path(path).expanduser(), tensor


def _safetensors_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != SAFETENSORS:
            raise SourceError(f"{path}: cannot be read; {_WANTED}")
        return [path]
    files = sorted(file for file in path.glob(f"*{SAFETENSORS}") if file.is_file() and not file.name.startswith("."))
    if not files:
        raise SourceError(f"{path}: the folder holds neither a Zarr array nor {SAFETENSORS} files; {_WANTED}")
    return files


_WANTED = (
    "wanted: a Zarr array, a .safetensors file, or a folder of those. lmsae.store_activations(folder, batches) writes "
    "such a folder"
)


def _tensor_part(file: Path, wanted: str, contents: Contents) -> Part:
    tensors = _tensors_of(file)
    tensor = _choose(file, wanted, list(tensors), "tensor", contents)
    found = tensors[tensor]
    dtype, shape = found.get("dtype"), found.get("shape")
    if not (isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)):
        raise SourceError(f"{file}, tensor {tensor!r}: its shape is {shape!r}; the file is damaged")
    if not isinstance(dtype, str) or dtype not in contents.dtypes:
        raise SourceError(f"{file}, tensor {tensor!r}: is of {dtype}; wanted: {', '.join(contents.dtypes)}")
    return Part(file, tensor, tuple(shape), contents.dtypes[dtype], contents)


def _tensors_of(file: Path) -> dict[str, JsonObject]:
    """The tensors of a safetensors file by name: 8 bytes of the header's length, the header, and the bytes that it
    tells of, to the last."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("it is cut off")
            found = parse_json(opened.read(length).decode())
        tensors = {name: one for name, one in found.items() if name != "__metadata__"}
        if any(one["data_offsets"][1] > size - 8 - length for one in tensors.values()):
            raise ValueError("it is cut off")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{file}: cannot be read as safetensors ({error}): damaged, or not all of it") from None
    return tensors


def _choose(place: Path, wanted: str, there: Sequence[str], what: str, contents: Contents) -> str:
    """The tensor or array that is meant: the one named, the only one, or the one that bears the contents' own name."""
    if wanted:
        if wanted not in there:
            hint = suggest(wanted, there) or f"; there are {', '.join(there) or 'none'}"
            raise SourceError(f"{place}: there is no {what} {wanted!r}{hint}")
        return wanted
    if len(there) == 1 or contents.default in there:
        return contents.default if contents.default in there else there[0]
    names = ", ".join(sorted(there)[:8]) or "none"
    raise SourceError(f"{place}: holds {len(there)} {what}s ({names}); name one behind the path: {place}#NAME")


def _zarr_part(path: Path, wanted: str, contents: Contents) -> Part:
    metadata = _zarr_metadata(path)
    if metadata.get("node_type") == "group" or (path / ".zgroup").is_file():
        inside = [file.parent for name in ("zarr.json", ".zarray") for file in path.glob(f"*/{name}")]
        arrays = [one.name for one in inside if "shape" in _zarr_metadata(one)]
        path = path / _choose(path, wanted, arrays, "array", contents)
        metadata = _zarr_metadata(path)
    elif wanted:
        raise SourceError(f"{path}: is an array itself, so there is none called {wanted!r} in it")
    shape, attributes = metadata.get("shape"), metadata.get("attributes") or {}
    dtype = metadata.get("data_type", metadata.get("dtype"))
    if not (isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)):
        raise SourceError(f"{path}: its metadata tell no shape; it is damaged, or no array")
    is_own = isinstance(attributes, dict) and {"contexts", "context_size", "width", "dtype"} <= attributes.keys()
    if is_own and attributes["dtype"] in OWN and contents is VECTORS:
        return Part(path, "", (*shape[:2], attributes["width"]), attributes["dtype"], contents, is_own)
    if dtype not in contents.zarr_dtypes:
        raise SourceError(f"{path}: is of {dtype!r}; wanted: {contents.dtypes_wanted}")
    return Part(path, "", tuple(shape), str(dtype), contents, is_own)


def _zarr_metadata(path: Path) -> JsonObject:
    for name in _METADATA:
        if (path / name).is_file():
            try:
                found = parse_json((path / name).read_text("utf-8"))
            except (ValueError, OSError) as error:
                raise SourceError(f"{path / name}: cannot be read ({error}): it is damaged") from None
            if isinstance(found, dict):
                return found
            raise SourceError(f"{path / name}: holds no JSON object: it is damaged")
    return json.loads("{}")


def _require_fit(header: Header, contents: Contents) -> None:
    first = header.parts[0]
    for part in header.parts:
        if len(part.shape) not in contents.dimensions:
            raise SourceError(
                f"{part}: has {len(part.shape)} dimensions {_show(part.shape)}; wanted: {contents.shapes_wanted}"
            )
        if 0 in part.shape:
            raise SourceError(f"{part}: is empty {_show(part.shape)}; leave the file out")
        if part.shape[1:] != first.shape[1:]:
            raise SourceError(
                f"{part}: is {_show(part.shape)}, but {first} is {_show(first.shape)}: all must be of "
                f"{'one width, and of ' if contents is VECTORS else ''}as many positions"
            )
    if header.vectors > MOST_VECTORS:
        raise SourceError(f"{header.root}: holds {header.vectors:,} vectors; lmsae counts to {MOST_VECTORS:,}")


def _show(shape: Sequence[int]) -> str:
    return f"({', '.join(f'{size:,}' for size in shape)})"
