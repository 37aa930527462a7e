"""One shard file, written and read natively: chunks, each followed by its crc32c, then the index of where they lie.

This is Zarr v3's `sharding_indexed` codec with inner codecs `bytes` (little endian) and `crc32c` and the index at the
end, so any Zarr v3 library opens the same file (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed).
Going without a codec pipeline pays twice. Chunks are read straight into the caller's buffer, several times faster than
zarr-python; and they are written in order, so that the same activations give the same bytes, which a parallel pipeline
does not promise.
"""

import os
from pathlib import Path

import google_crc32c
import numpy as np

from lmsae.errors import DamagedArtifact
from lmsae.runtime.disk import explain_full_disk
from lmsae.store.layout import CHECKSUM_BYTES, Layout

NOWHERE = np.uint64(2**64 - 1)
"""Zarr's mark for a chunk that a shard does not hold."""


class ShardWriter:
    """Writes one shard, chunk after chunk. The file takes its name when it is whole and on the disk, never before."""

    def __init__(self, path: Path, chunks: int) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._index = np.full((chunks, 2), NOWHERE, dtype="<u8")
        self._written = 0
        self._offset = 0
        with explain_full_disk(path):
            self._file = self._partial.open("wb")

    @property
    def is_full(self) -> bool:
        """Whether every chunk has been added."""
        return self._written == len(self._index)

    def add(self, chunk: np.ndarray) -> None:
        """Write the next chunk: all its bytes, contiguous."""
        self._index[self._written] = self._offset, chunk.nbytes + CHECKSUM_BYTES
        self._offset += chunk.nbytes + CHECKSUM_BYTES
        self._written += 1
        with explain_full_disk(self._path):
            self._file.write(chunk.data)
            self._file.write(checksum(chunk))

    def finish(self) -> None:
        """Write the index, put the file on the disk and give it its name."""
        with explain_full_disk(self._path), self._file as file:
            file.write(self._index.data)
            file.write(checksum(self._index))
            file.flush()
            os.fsync(file.fileno())
        self._partial.replace(self._path)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._partial.unlink(missing_ok=True)
        self._file.raw.close()  # not the buffered file: on a full disk its last flush would raise again


def read_index(path: Path, layout: Layout, shard: int) -> np.ndarray:
    """Where each chunk of a shard lies: (chunks, 2) of offset and length in bytes.

    Raises:
        DamagedArtifact: if the shard is missing, too short, or its index is not the one written.
    """
    entries = np.empty((layout.shard_chunks, 2), dtype="<u8")
    try:
        with path.open("rb") as file:
            start = os.fstat(file.fileno()).st_size - layout.index_bytes
            whole = start >= 0 and _read_checked(file.fileno(), start, entries)
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    places = entries[: layout.chunks - shard * layout.shard_chunks]
    offsets, lengths = places.T
    if not whole or (lengths != layout.chunk_bytes + CHECKSUM_BYTES).any() or (offsets + lengths > start).any():
        raise damaged(path, "its index is not the one that was written: the file is cut short or altered")
    return places


def read_chunk(file: int, path: Path, chunk: int, offset: int, into: np.ndarray) -> None:
    """Read one chunk of an open shard into contiguous memory and check its crc32c.

    Args:
        file: the open shard's descriptor.
        path: the shard's path, for the message.
        chunk: the chunk's number in this shard, for the message.
        offset: where it begins, of `read_index`.
        into: as many bytes as the chunk holds.

    Raises:
        DamagedArtifact: naming the file and the chunk.
    """
    if not _read_checked(file, offset, into):
        end = offset + into.nbytes + CHECKSUM_BYTES
        raise damaged(path, f"chunk {chunk} (bytes {offset:,} to {end:,}) does not match its checksum")


def _read_checked(file: int, offset: int, into: np.ndarray) -> bool:
    """Fill `into` from the file and say whether the crc32c that follows agrees."""
    behind = bytearray(CHECKSUM_BYTES)
    read = os.preadv(file, [into.data, behind], offset)
    return read == into.nbytes + CHECKSUM_BYTES and behind == checksum(into)


def checksum(block: np.ndarray) -> bytes:
    """The crc32c of contiguous memory, as it stands on disk."""
    return google_crc32c.value(block).to_bytes(CHECKSUM_BYTES, "little")


def damaged(path: Path, what: str) -> DamagedArtifact:
    """The error for a file whose bytes are not those that were written."""
    return DamagedArtifact(
        f"{path}: {what}. `lmsae verify` lists all that is damaged; delete the artifact and run again."
    )
