"""A spool: the token ids of one split's documents, in a nameless file, until all documents are known.

With a limit, it keeps the first documents of the shuffled order that hold so many tokens. Which they are is known only
when all documents have come, but a document behind the last of those kept so far can never be among them. So few of
the documents of a large text need be tokenized. Memory holds 48 bytes a document that is kept; names stand in a file.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from lmsae.text.documents import shuffle_rank

Ids = np.ndarray  # one-dimensional, of an unsigned dtype that holds the vocabulary
Mask = np.ndarray  # bool, of the same shape: true where training may use the token

SLACK = 1.25
"""Tokens that are kept before documents are dropped, as a multiple of the limit: dropping takes a sort."""


class Spool:
    """A file that documents are appended to, and that is read back as one shuffled stream of tokens.

    With `masked`, it holds a mask beside the ids. With `most`, it keeps no documents behind the one that completes so
    many tokens.
    """

    def __init__(
        self, directory: Path, dtype: np.dtype, seed: int, *, masked: bool = False, most: int | None = None
    ) -> None:
        # Closed by __exit__, and nameless on disk.
        self._file, self._names = (tempfile.TemporaryFile(dir=directory) for _ in range(2))  # noqa: SIM115
        self._record = np.dtype([("id", dtype), ("mask", np.bool_)] if masked else [("id", dtype)])
        self._seed, self.most = seed, most
        self._ranks, self._starts, self._lengths, self._characters = (array("Q") for _ in range(4))
        self._name_starts, self._name_lengths = array("Q"), array("Q")
        self._left_out = array("Q")
        self._last_rank: int | None = None
        self._written = self._named = 0
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._names.close()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def has_mask(self) -> bool:
        """True if a mask stands beside the ids."""
        return "mask" in (self._record.names or ())

    @property
    def is_full(self) -> bool:
        """True if there are as many tokens as the limit allows."""
        return self.most is not None and self.tokens >= self.most

    @property
    def characters(self) -> int:
        """Characters of the documents."""
        return sum(self._characters)

    @property
    def left_out(self) -> int:
        """The number of documents that cannot be used and would otherwise be among those kept."""
        return sum(self._may_keep(rank) for rank in self._left_out)

    def wants(self, name: str) -> bool:
        """True unless a document is known to stand behind those that are kept."""
        return self._last_rank is None or self._may_keep(shuffle_rank(self._seed, name))

    def append(self, name: str, ids: Ids, mask: Mask | None = None, characters: int = 0) -> None:
        """Add a document: its name, which decides its position in the order, its ids, and their mask (None: all)."""
        records = np.ones(len(ids), self._record)
        records["id"] = ids
        if mask is not None:
            records["mask"] = mask
        self._file.write(records.tobytes())
        self._ranks.append(shuffle_rank(self._seed, name))
        self._starts.append(self._written)
        self._lengths.append(len(ids))
        self._characters.append(characters)
        self._name_starts.append(self._named)
        self._name_lengths.append(self._names.write(name.encode()))
        self._named += self._name_lengths[-1]
        self._written += len(ids)
        self.tokens += len(ids)
        if self.most is not None and self.tokens >= self.most * (1 if self._last_rank is None else SLACK):
            self.keep_first()

    def leave_out(self, name: str) -> None:
        """Count a document that cannot be used."""
        self._left_out.append(shuffle_rank(self._seed, name))

    def keep_first(self) -> None:
        """Drop what stands behind the document that completes the limit; without a limit, or short of it, nothing."""
        if self.most is None or self.tokens < self.most:
            return
        order = np.argsort(np.frombuffer(self._ranks, np.uint64), kind="stable")
        ends = np.cumsum(_numbers(self._lengths)[order])
        kept = order[: np.searchsorted(ends, self.most) + 1]
        self._last_rank = self._ranks[kept[-1]]
        self.tokens = int(ends[len(kept) - 1])
        for name in ("_ranks", "_starts", "_lengths", "_characters", "_name_starts", "_name_lengths"):
            values = np.frombuffer(getattr(self, name), np.uint64)[kept]
            setattr(self, name, array("Q", values.tobytes()))

    def read(self, begin: int, end: int) -> tuple[np.ndarray, ...]:
        """Tokens `begin` to `end` of the shuffled stream: ids, document indices and, if there is one, the mask.

        An index counts the documents of this spool in their shuffled order. After the first read nothing may be
        appended.
        """
        starts, ends = self._layout
        first, last = np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1
        begins = np.concatenate([ends[first - 1 : first] if first else [0], ends[first : last - 1]])
        from_, to = np.maximum(begins, begin), np.minimum(ends[first:last], end)
        places = zip(starts[first:last] + from_ - begins, to - from_, strict=True)
        records = np.concatenate([self._records(start, length) for start, length in places])
        documents = np.repeat(np.arange(first, last), to - from_)
        return (records["id"], documents, records["mask"]) if self.has_mask else (records["id"], documents)

    def names(self, tokens: int) -> Iterator[str]:
        """Yield the names of the documents that the first tokens of the shuffled stream come from, in their order."""
        _, ends = self._layout
        self._names.flush()
        count = int(np.searchsorted(ends, tokens, "left")) + 1 if tokens else 0
        for document in self._order[:count].tolist():
            start, length = self._name_starts[document], self._name_lengths[document]
            yield os.pread(self._names.fileno(), length, start).decode()

    @cached_property
    def _order(self) -> np.ndarray:
        """The numbers of the documents, as they were appended, in shuffled order."""
        return np.argsort(np.frombuffer(self._ranks, np.uint64), kind="stable")

    @cached_property
    def _layout(self) -> tuple[np.ndarray, np.ndarray]:
        """The documents in shuffled order: their starts in the file, and their ends in the stream."""
        self._file.flush()
        return _numbers(self._starts)[self._order], np.cumsum(_numbers(self._lengths)[self._order])

    def _may_keep(self, rank: int) -> bool:
        return self._last_rank is None or rank <= self._last_rank

    def _records(self, start: int, length: int) -> np.ndarray:
        """Records by their position in the file. They are not mapped: that would count as memory of this process."""
        size = self._record.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), length * size, start * size), self._record)


def _numbers(values: array) -> np.ndarray:
    """Numbers as an array that may be negative."""
    return np.frombuffer(values, np.uint64).astype(np.int64)
