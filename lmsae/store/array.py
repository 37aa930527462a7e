"""The Zarr metadata of a store: written and read with zarr-python, so that the store is a plain Zarr v3 array."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.store.layout import Layout

# Zarr 3.1 has no bfloat16: its 16 bits are stored as uint16, and the attribute `dtype` tells.
ZARR_DTYPES = {"float16": "float16", "bfloat16": "uint16", "float32": "float32"}


def create_array(path: Path, layout: Layout) -> None:
    """Make an empty store at `path`, in place of whatever array is there."""
    zarr.create_array(
        path,
        shape=layout.shape,
        dtype=ZARR_DTYPES[layout.dtype],
        chunks=(layout.chunk_contexts, layout.context_size, layout.width),
        shards=(layout.shard_contexts, layout.context_size, layout.width),
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        attributes=dict[str, Any](asdict(layout)),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("context", "position", "width"),
        overwrite=True,
    )


def layout_at(path: Path) -> Layout:
    """The layout of the store at `path`.

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
        layout = Layout(**dict[str, Any](array.attrs))
    except (json.JSONDecodeError, ValueError, TypeError, KeyError) as error:
        raise DamagedArtifact(
            f"{path / 'zarr.json'}: cannot be read as the metadata of an activation store ({error}). "
            "`lmsae verify` lists all that is damaged; delete the artifact and run again."
        ) from error
    cut = ShardingCodec(
        chunk_shape=(layout.chunk_contexts, layout.context_size, layout.width),
        codecs=[BytesCodec(endian="little"), Crc32cCodec()],
    )
    wanted = (layout.shape, (layout.shard_contexts, *layout.shape[1:]), ZARR_DTYPES[layout.dtype], (cut,))
    found = (array.shape, array.shards, array.dtype.name, getattr(array.metadata, "codecs", None))
    if found != wanted:
        raise DamagedArtifact(f"{path / 'zarr.json'}: attributes and array disagree: wanted {wanted}, found {found}.")
    return layout


def shard_path(path: Path, shard: int) -> Path:
    """The file of one shard."""
    return path / f"c.{shard}.0.0"
