"""The Zarr metadata of a store, written and read with zarr-python: the store is a plain Zarr v3 array."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from lmsae.config import JsonObject
from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.store.layout import STORED_FORMATS, Layout


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
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("context", "position", "width"),
        overwrite=True,
    )


def layout_at(path: Path) -> tuple[Layout, JsonObject]:
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
    return layout, attributes


def metadata_error(path: Path, error: Exception) -> DamagedArtifact:
    """The error for metadata that are not those of an activation store."""
    return DamagedArtifact(
        f"{path / 'zarr.json'}: cannot be read as the metadata of an activation store ({error}). "
        "`lmsae verify` lists all that is damaged; delete the artifact and run again."
    )


def shard_path(path: Path, shard: int) -> Path:
    """The file of one shard."""
    return path / f"c.{shard}.0.0"


def _serializer(layout: Layout) -> BytesCodec:
    """The codec of bytes: little endian. Zarr gives single bytes no order."""
    return BytesCodec(endian="little" if STORED_FORMATS[layout.dtype].item_bytes > 1 else None)
