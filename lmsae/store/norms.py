"""The L2 norm of every token's raw activation, in a small Zarr v3 array beside the store: 4 bytes a token.

A reader of the store may leave out tokens by their norm, and it must know them before it reads any. A chunk is a file
of its own and holds the contexts of one shard of the store, so that both are resumed alike.
"""

import os
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from lmsae.errors import MissingArtifact
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import draft_of
from lmsae.store.array import SEPARATOR
from lmsae.store.layout import CHECKSUM_BYTES, Layout
from lmsae.store.shard import MISSING, checksum, damage_error


def norms_path(store: Path) -> Path:
    """The folder of the norms of a store's tokens: `activations.norms.zarr` for `activations.zarr`."""
    return store.with_name(f"{store.stem}.norms.zarr")


def norms_file(store: Path, shard: int) -> Path:
    """The file of one shard's norms."""
    return norms_path(store) / SEPARATOR.join(("c", str(shard), "0"))


def create_norms(store: Path, layout: Layout) -> None:
    """Make an empty array of norms beside a store, in place of any array that is there."""
    zarr.create_array(
        norms_path(store),
        shape=layout.shape[:2],
        dtype="float32",
        chunks=(layout.shard_contexts, layout.context_size),
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": SEPARATOR},
        dimension_names=("context", "position"),
        overwrite=True,
    )


def write_norms(path: Path, norms: np.ndarray) -> None:
    """Write the norms of one shard. The file takes its name when it is whole and on the disk."""
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft, draft.open("wb") as file:
            file.write(norms.data)
            file.write(checksum(norms))
            file.flush()
            os.fsync(file.fileno())


def check_norms(path: Path, layout: Layout) -> None:
    """Raise DamagedArtifact unless the norms of one shard are as `write_norms` writes them."""
    try:
        data = path.read_bytes()
    except MISSING:
        raise damage_error(path, "the file is missing") from None
    whole = len(data) == layout.norms_nbytes // layout.shards
    norms, behind = np.frombuffer(data[:-CHECKSUM_BYTES], np.uint8), data[-CHECKSUM_BYTES:]
    if not whole or checksum(norms) != behind:
        raise damage_error(path, "its checksum is not the one that was written: the file is cut short or altered")


class TokenNorms:
    """The norms beside a store, read some contexts at a time: `norms[10:20]` is (10, context_size) float32."""

    def __init__(self, store: Path) -> None:
        """Open them. Raises MissingArtifact if there are none, and DamagedArtifact if they cannot be read."""
        self._path = norms_path(store)
        if not (self._path / "zarr.json").exists():
            raise MissingArtifact(
                f"{self._path}: there are no norms beside the store; capture it anew with `lmsae activations`."
            )
        try:
            self._array = zarr.open_array(self._path, mode="r")
        except (ValueError, KeyError, TypeError) as error:
            raise damage_error(self._path, f"its metadata cannot be read ({error})") from error

    def __getitem__(self, contexts: slice) -> np.ndarray:
        """Read some contexts. Raises DamagedArtifact when the bytes on disk are not those that were written."""
        try:
            return np.asarray(self._array[contexts])
        except (ValueError, RuntimeError) as error:
            raise damage_error(self._path, f"a chunk cannot be read ({error})") from error
