"""The Zarr metadata of a store, written and read with zarr-python: the store is a plain Zarr v3 array."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from lmsae.config import JsonObject
from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.store.layout import STORED_FORMATS, Layout

SEPARATOR = "/"
"""Between the parts of a shard's name, c/0/0/0: Zarr's default, which some readers take for granted."""


class FoundStore(NamedTuple):
    """The metadata of a store."""

    layout: Layout
    codec_attributes: JsonObject
    separator: str
    """Between the parts of a shard's name. A store of activations of version 2 or 1 has `.`: c.0.0.0."""

    def can_go_on(self, layout: Layout) -> bool:
        """True if a writer of this layout would write the shards that are not there yet."""
        return (self.layout, self.separator) == (layout, SEPARATOR)


def create_array(path: Path, layout: Layout, codec_attributes: JsonObject | None = None) -> None:
    """Make an empty store at `path`, in place of any array that is there, with the attributes of its codec."""
    zarr.create_array(
        path,
        shape=layout.stored_shape,
        dtype=STORED_FORMATS[layout.dtype].zarr_dtype,
        chunks=(layout.chunk_contexts, *layout.stored_shape[1:]),
        shards=(layout.shard_contexts, *layout.stored_shape[1:]),
        filters=None,
        serializer=_serializer(layout),
        compressors=[Crc32cCodec()],
        fill_value=0,
        attributes={**asdict(layout), **(codec_attributes or {})},
        chunk_key_encoding={"name": "default", "separator": SEPARATOR},
        dimension_names=("context", "position", "width"),
        overwrite=True,
    )


def find_store(path: Path) -> FoundStore:
    """The layout of the store at `path`, the attributes of its codec, and how its shards are named.

    Raises:
        MissingArtifact: if no array is there.
        DamagedArtifact: if its metadata cannot be read, or is not that of an activation store.
    """
    if not (path / "zarr.json").exists():
        raise MissingArtifact(
            f"{path}: there is no activation store here (no zarr.json); make it with `lmsae activations`."
        )
    try:
        array = zarr.open_array(path, mode="r")
        attributes: JsonObject = dict(array.attrs)
        layout = Layout(**{field.name: attributes.pop(field.name) for field in fields(Layout)})
        stored = STORED_FORMATS[layout.dtype]
    except (json.JSONDecodeError, ValueError, TypeError, KeyError) as error:
        raise metadata_error(path, error) from error
    cut = ShardingCodec(
        chunk_shape=(layout.chunk_contexts, *layout.stored_shape[1:]),
        codecs=[_serializer(layout), Crc32cCodec()],
    )
    wanted = (layout.stored_shape, (layout.shard_contexts, *layout.stored_shape[1:]), stored.zarr_dtype, (cut,))
    found = (array.shape, array.shards, array.dtype.name, getattr(array.metadata, "codecs", None))
    if found != wanted:
        raise DamagedArtifact(f"{path / 'zarr.json'}: attributes and array disagree: wanted {wanted}, found {found}.")
    first = array.metadata.encode_chunk_key((0, 0, 0))
    for separator in (SEPARATOR, "."):
        if path / first == shard_path(path, 0, separator):
            return FoundStore(layout, attributes, separator)
    raise DamagedArtifact(f"{path / 'zarr.json'}: names the first shard {first}; wanted c/0/0/0.")


def metadata_error(path: Path, error: Exception) -> DamagedArtifact:
    """The error for metadata that are not those of an activation store."""
    return DamagedArtifact(
        f"{path / 'zarr.json'}: cannot be read as the metadata of an activation store ({error}). "
        "`lmsae verify` lists all that is damaged; delete the artifact and run again."
    )


def shard_path(path: Path, shard: int, separator: str = SEPARATOR) -> Path:
    """The file of one shard."""
    return path / separator.join(("c", str(shard), "0", "0"))


def _serializer(layout: Layout) -> BytesCodec:
    """The codec of bytes: little endian. Zarr gives single bytes no order."""
    return BytesCodec(endian="little" if STORED_FORMATS[layout.dtype].item_bytes > 1 else None)
