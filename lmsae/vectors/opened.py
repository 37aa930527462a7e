"""Opened files of vectors or token ids: any stretch of them, with memory for that stretch and a few chunks."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from lmsae.errors import ArtifactError, SourceError
from lmsae.store.reader import StoreReader
from lmsae.vectors.headers import VECTORS, Header, Part

if TYPE_CHECKING:
    import zarr

READ_AT_ONCE = 1024
"""Vectors, or more where a chunk holds more."""
BLOCKS_KEPT = 2
OPENED_AT_ONCE = 64
"""Files; a folder may hold more than a process may open."""

Read = Callable[[int, int], Tensor]
"""Vectors `start` to `stop` of a part, (vectors, width): float32, or of token ids int64."""


class Vectors:
    """All vectors of a header, by number: `vectors.read(10, 20)` is (10, width), float32. Token ids are vectors of
    width 1, int64."""

    def __init__(self, header: Header) -> None:
        """Raises SourceError if a file is not what its header says."""
        self.header = header
        self._starts = [0, *accumulate(part.vectors for part in header.parts)]
        self._readers: OrderedDict[int, Read] = OrderedDict()

    def read(self, start: int, stop: int) -> Shaped[Tensor, "vectors width"]:
        """Vectors that follow each other. Raises SourceError, with file and tensor, for a value that is not finite,
        and where a file cannot be read."""
        pieces, number = [], bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[number], min(stop, self._starts[number + 1])
            piece = self._reader(number)(start - begin, end - begin)
            _require_finite(piece, self.header.parts[number], start - begin)
            pieces.append(piece)
            start, number = end, number + 1
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def place(self, number: int) -> str:
        """The place of a vector, for people: its file, and its number there or its context and position."""
        part = bisect_right(self._starts, number) - 1
        return _place(self.header.parts[part], number - self._starts[part])

    def _reader(self, number: int) -> Read:
        if number not in self._readers:
            part = self.header.parts[number]
            while len(self._readers) >= OPENED_AT_ONCE:
                self._readers.popitem(last=False)
            try:
                self._readers[number] = _open(part, self.header.kind)
            except (ArtifactError, OSError, ValueError, KeyError, RuntimeError) as error:
                raise SourceError(f"{part}: cannot be opened ({error})") from None
        return self._readers[number]


def _open(part: Part, kind: str) -> Read:
    if kind == "safetensors":
        return _reader_of_tensor(part)
    if part.is_own:
        store = StoreReader(part.path)
        return _reader_of_contexts(part, store.read, store.layout.chunk_contexts)
    import zarr

    array = zarr.open_array(part.path, mode="r")
    if array.shape != part.shape:
        raise ValueError(f"it is {array.shape} and not {part.shape}")
    dtype = np.float32 if part.contents is VECTORS else np.int64
    return _reader_of_contexts(part, lambda start, stop: _tensor(array, start, stop, dtype), array.chunks[0])


def _tensor(array: "zarr.Array", start: int, stop: int, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[start:stop], dtype=dtype))


def _reader_of_tensor(part: Part) -> Read:
    from safetensors import safe_open

    is_of_ids = part.contents is not VECTORS
    opened: Any = safe_open(part.path, framework="np" if is_of_ids else "pt")  # NumPy knows all whole numbers
    tensor, positions, width = opened.get_slice(part.tensor), part.positions, part.width

    def read(start: int, stop: int) -> Tensor:
        first, last = start // positions, -(-stop // positions)
        some = tensor[first:last].reshape(-1, width)
        found = torch.from_numpy(some.astype(np.int64)) if is_of_ids else some.float()
        return found[start - first * positions : stop - first * positions]

    return _told(part, read)


def _reader_of_contexts(part: Part, load: Read, chunk: int) -> Read:
    """Reads whole chunks, and keeps the last ones: what is asked for next is often in the same."""
    positions, width = part.positions, part.width
    size = -(-max(READ_AT_ONCE // positions, 1) // chunk) * chunk
    kept: OrderedDict[int, Tensor] = OrderedDict()

    def block(number: int) -> Tensor:
        if number not in kept:
            while len(kept) >= BLOCKS_KEPT:
                kept.popitem(last=False)
            found = load(number * size, min((number + 1) * size, part.shape[0]))
            kept[number] = found.reshape(-1, width)
        return kept[number]

    def read(start: int, stop: int) -> Tensor:
        step = size * positions
        numbers = range(start // step, -(-stop // step))
        pieces = [block(n)[max(start - n * step, 0) : stop - n * step] for n in numbers]
        return torch.cat(pieces)

    return _told(part, read)


def _told(part: Part, read: Read) -> Read:
    """The same, with the errors of libraries as sentences about the part."""

    def reading(start: int, stop: int) -> Tensor:
        try:
            return read(start, stop)
        except (ArtifactError, OSError, ValueError, KeyError, RuntimeError) as error:
            message = f"{part}: vectors {start:,} to {stop:,} cannot be read ({error})"
            raise SourceError(f"{message}: the file is damaged, or a codec is not installed") from None

    return reading


def _require_finite(vectors: Tensor, part: Part, first: int) -> None:
    if vectors.isfinite().all():
        return
    row, column = (int(one) for one in (~vectors.isfinite()).nonzero()[0])
    where = _place(part, first + row)
    raise SourceError(f"{where} is {vectors[row, column]} in column {column:,}; wanted: finite numbers")


def _place(part: Part, number: int) -> str:
    if part.positions == 1:
        return f"{part}: vector {number:,}"
    return f"{part}: context {number // part.positions:,}, position {number % part.positions:,}"


def read_some(vectors: Vectors, numbers: Sequence[int] | Tensor) -> Shaped[Tensor, "vectors width"]:
    """Vectors by their numbers, which ascend where many are asked for. Where they lie close together, all between them
    are read, too."""
    wanted = torch.as_tensor(numbers).cpu()
    low, high = int(wanted.min()), int(wanted.max()) + 1
    if high - low <= 2 * len(wanted):
        return vectors.read(low, high)[wanted - low]
    edges = (torch.nonzero(wanted.diff() != 1).flatten() + 1).tolist()
    runs = zip([0, *edges], [*edges, len(wanted)], strict=True)
    return torch.cat([vectors.read(int(wanted[begin]), int(wanted[end - 1]) + 1) for begin, end in runs])
