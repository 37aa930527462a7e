"""The Zarr metadata of a store: written and read with zarr-python, so that the store is a plain Zarr v3 array."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.store.layout import STORED, Layout

_NONE: Mapping[str, Any] = MappingProxyType({})


def create_array(path: Path, layout: Layout, of_codec: Mapping[str, Any] = _NONE) -> None:
    """Make an empty store at `path`, in place of whatever array is there, with the attributes of its codec."""
    zarr.create_array(
        path,
        shape=layout.stored_shape,
        dtype=STORED[layout.dtype].zarr_dtype,
        chunks=(layout.chunk_contexts, *layout.stored_shape[1:]),
        shards=(layout.shard_contexts, *layout.stored_shape[1:]),
        filters=None,
        serializer=_serializer(layout),
        compressors=[Crc32cCodec()],
        fill_value=0,
        attributes={**asdict(layout), **of_codec},
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("context", "position", "width"),
        overwrite=True,
    )


def layout_at(path: Path) -> tuple[Layout, dict[str, Any]]:
    """The layout of the store at `path`, and the attributes of its codec.

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
        attributes = dict[str, Any](array.attrs)
        layout = Layout(**{field.name: attributes.pop(field.name) for field in fields(Layout)})
        stored = STORED[layout.dtype]
    except (json.JSONDecodeError, ValueError, TypeError, KeyError) as error:
        raise unreadable(path, error) from error
    cut = ShardingCodec(
        chunk_shape=(layout.chunk_contexts, *layout.stored_shape[1:]),
        codecs=[_serializer(layout), Crc32cCodec()],
    )
    wanted = (layout.stored_shape, (layout.shard_contexts, *layout.stored_shape[1:]), stored.zarr_dtype, (cut,))
    found = (array.shape, array.shards, array.dtype.name, getattr(array.metadata, "codecs", None))
    if found != wanted:
        raise DamagedArtifact(f"{path / 'zarr.json'}: attributes and array disagree: wanted {wanted}, found {found}.")
    return layout, attributes


def unreadable(path: Path, error: Exception) -> DamagedArtifact:
    """The error for metadata that are not those of a store."""
    return DamagedArtifact(
        f"{path / 'zarr.json'}: cannot be read as the metadata of an activation store ({error}). "
        "`lmsae verify` lists all that is damaged; delete the artifact and run again."
    )


def shard_path(path: Path, shard: int) -> Path:
    """The file of one shard."""
    return path / f"c.{shard}.0.0"


def _serializer(layout: Layout) -> BytesCodec:
    """Little endian; of single bytes Zarr drops the order."""
    return BytesCodec(endian="little" if STORED[layout.dtype].item_bytes > 1 else None)
