"""One shard file, written and read natively: chunks, each followed by its crc32c, and then the index of the chunks.

This is Zarr v3's `sharding_indexed` codec with the inner codecs `bytes` (little endian) and `crc32c` and the index at
the end. So any Zarr v3 library opens the file (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed).
There are two reasons to do without a codec pipeline. Chunks are read straight into the caller's buffer, several times
faster than by zarr-python. And chunks are written in order, so that the same activations give the same bytes: a
parallel pipeline does not promise that.
"""

import os
from pathlib import Path

import google_crc32c
import numpy as np

from lmsae.errors import DamagedArtifact
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import name_draft
from lmsae.store.layout import CHECKSUM_BYTES, Layout

NOWHERE = np.uint64(2**64 - 1)
"""Zarr's mark for a chunk that a shard does not hold."""
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""The errors of a file that is not there, or where a file and a folder have taken each other's place."""


class ShardWriter:
    """Writes one shard, chunk after chunk. The file takes its name when it is whole and on the disk."""

    def __init__(self, path: Path, chunks: int) -> None:
        self._path = path
        self._draft = name_draft(path)
        self._index = np.full((chunks, 2), NOWHERE, dtype="<u8")
        self._written = 0
        self._offset = 0
        with explain_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._draft.open("wb")

    @property
    def is_full(self) -> bool:
        """True once every chunk has been added."""
        return self._written == len(self._index)

    def add(self, chunk: np.ndarray) -> None:
        """Write the next chunk from contiguous memory."""
        self._index[self._written] = self._offset, chunk.nbytes + CHECKSUM_BYTES
        self._offset += chunk.nbytes + CHECKSUM_BYTES
        self._written += 1
        with explain_full_disk(self._path):
            self._file.write(chunk.data)
            self._file.write(checksum(chunk))

    def finish(self) -> None:
        """Write the index, flush the file to the disk, and give it its name."""
        with explain_full_disk(self._path), self._file as file:
            file.write(self._index.data)
            file.write(checksum(self._index))
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self._path)

    def abandon(self) -> None:
        """Remove the unfinished file, if the shard is not finished."""
        self._draft.unlink(missing_ok=True)
        self._file.raw.close()  # on a full disk, a last flush of the buffered file would raise again


def read_index(path: Path, layout: Layout, shard: int) -> np.ndarray:
    """The index of a shard: offset and length of each chunk in bytes, (chunks, 2).

    Raises:
        DamagedArtifact: if the shard is missing, too short, or its index is not the one that was written.
    """
    entries = np.empty((layout.shard_chunks, 2), dtype="<u8")
    try:
        with path.open("rb") as file:
            start = os.fstat(file.fileno()).st_size - layout.index_bytes
            whole = start >= 0 and _read_checked(file.fileno(), start, entries)
    except MISSING:
        raise damage_error(path, "the file is missing") from None
    index = entries[: layout.chunks - shard * layout.shard_chunks]
    offsets, lengths = index.T
    if not whole or (lengths != layout.chunk_bytes + CHECKSUM_BYTES).any() or (offsets + lengths > start).any():
        raise damage_error(path, "its index is not the one that was written: the file is cut short or altered")
    return index


def read_chunk(file: int, path: Path, chunk: int, offset: int, into: np.ndarray) -> None:
    """Read one chunk of an open shard into contiguous memory and check its crc32c.

    Args:
        file: the open shard's descriptor.
        path: the shard's path, for the message.
        chunk: the chunk's number in this shard, for the message.
        offset: the chunk's offset, by `read_index`.
        into: memory for as many bytes as the chunk holds.

    Raises:
        DamagedArtifact: naming the file and the chunk.
    """
    if not _read_checked(file, offset, into):
        end = offset + into.nbytes + CHECKSUM_BYTES
        raise damage_error(path, f"chunk {chunk} (bytes {offset:,} to {end:,}) does not match its checksum")


def _read_checked(file: int, offset: int, into: np.ndarray) -> bool:
    """Fill `into` from the file. Returns True if the crc32c behind it agrees."""
    behind = bytearray(CHECKSUM_BYTES)
    read = os.preadv(file, [into.data, behind], offset)
    return read == into.nbytes + CHECKSUM_BYTES and behind == checksum(into)


def checksum(block: np.ndarray) -> bytes:
    """The crc32c of contiguous memory, in the bytes of the file."""
    return google_crc32c.value(block).to_bytes(CHECKSUM_BYTES, "little")


def damage_error(path: Path, what: str) -> DamagedArtifact:
    """The error for a file whose bytes are not those that were written."""
    return DamagedArtifact(
        f"{path}: {what}. `lmsae verify` lists all that is damaged; delete the artifact and run again."
    )
