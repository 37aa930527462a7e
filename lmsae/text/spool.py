"""A spool: the token ids of one split's documents, in a nameless file, until all documents are known.

Memory holds 16 bytes a document.
"""

import os
import tempfile
from array import array
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from lmsae.text.documents import shuffle_rank

Ids = np.ndarray  # one-dimensional, of an unsigned dtype that holds the vocabulary
Mask = np.ndarray  # bool, of the same shape: true where training may use the token


class Spool:
    """A file that documents are appended to, and that is read back as one shuffled stream of tokens.

    With `masked`, it holds a mask beside the ids.
    """

    def __init__(self, directory: Path, dtype: np.dtype, seed: int, *, masked: bool = False) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (closed by __exit__; nameless on disk)
        self._record = np.dtype([("id", dtype), ("mask", np.bool_)] if masked else [("id", dtype)])
        self._seed = seed
        self._ranks, self._lengths = array("Q"), array("Q")
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def has_mask(self) -> bool:
        """True if a mask stands beside the ids."""
        return "mask" in (self._record.names or ())

    def append(self, name: str, ids: Ids, mask: Mask | None = None) -> None:
        """Add a document: its name, which decides its position in the order, its ids, and their mask (None: all)."""
        records = np.ones(len(ids), self._record)
        records["id"] = ids
        if mask is not None:
            records["mask"] = mask
        self._file.write(records.tobytes())
        self._ranks.append(shuffle_rank(self._seed, name))
        self._lengths.append(len(ids))
        self.tokens += len(ids)

    def read(self, begin: int, end: int) -> tuple[np.ndarray, ...]:
        """Tokens `begin` to `end` of the shuffled stream: ids, document indices and, if there is one, the mask.

        An index counts the documents of this spool in their shuffled order. After the first read nothing may be
        appended.
        """
        order, starts, ends = self._layout
        first, last = np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1
        lengths = self._length_of[order[first:last]]
        skipped = begin - (ends[first] - lengths[0])
        span = slice(skipped, skipped + end - begin)
        pieces = [self._records(start, length) for start, length in zip(starts[first:last], lengths, strict=True)]
        records = np.concatenate(pieces)[span]
        documents = np.repeat(np.arange(first, last), lengths)[span]
        return (records["id"], documents, records["mask"]) if self.has_mask else (records["id"], documents)

    @cached_property
    def _length_of(self) -> np.ndarray:
        return np.frombuffer(self._lengths, np.uint64).astype(np.int64)

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The documents in shuffled order: their numbers, their starts in the file, and their ends in the stream."""
        self._file.flush()
        order = np.argsort(np.frombuffer(self._ranks, np.uint64), kind="stable")
        starts = np.cumsum(self._length_of) - self._length_of
        return order, starts[order], np.cumsum(self._length_of[order])

    def _records(self, start: int, length: int) -> np.ndarray:
        """Records by their position in the file. They are not mapped: that would count as memory of this process."""
        size = self._record.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), length * size, start * size), self._record)
