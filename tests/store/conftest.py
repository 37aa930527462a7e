"""Small real stores: chunks of 4 contexts, shards of 3 chunks, contexts of 8 tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmsae.store.layout import STORED_FORMATS, Layout, StoreDtype
from lmsae.store.writer import StoreWriter

MakeLayout = Callable[..., Layout]
MakeStore = Callable[..., Path]


@pytest.fixture
def small_layout() -> MakeLayout:
    """Builds a layout of small chunks and shards."""

    def make(contexts: int, context_size: int = 8, width: int = 3, dtype: StoreDtype = "float32") -> Layout:
        stored = STORED_FORMATS[dtype]
        chunk_bytes = 4 * context_size * (width + stored.extra_items) * stored.item_bytes
        return Layout(contexts, context_size, width, dtype, 4 * context_size, 3 * chunk_bytes)

    return make


@pytest.fixture
def make_store(tmp_path: Path, small_layout: MakeLayout) -> MakeStore:
    """Writes activations of shape (contexts, context_size, width) to a small store and gives its path."""

    def make(activations: Tensor, dtype: StoreDtype = "float32", name: str = "store", batch: int = 5) -> Path:
        with StoreWriter(tmp_path / name, small_layout(*activations.shape, dtype)) as writer:
            for contexts in activations.split(batch):
                writer.append(contexts)
        return tmp_path / name

    return make


@pytest.fixture
def numbered_tokens() -> Callable[[int, int], Tensor]:
    """Activations that tell which token they belong to: token number t holds t, t + 0.25, t + 0.5..."""

    def make(contexts: int, width: int) -> Tensor:
        tokens = torch.arange(contexts * 8, dtype=torch.float32).view(contexts, 8, 1)
        return tokens + torch.arange(width) / 4

    return make


def rename_shards(array: Path) -> None:
    """Give the shards of an array, or the chunks of its norms, the names of activations of version 2: c.0.0.0."""
    metadata = json.loads((array / "zarr.json").read_text())
    metadata["chunk_key_encoding"]["configuration"]["separator"] = "."
    (array / "zarr.json").write_text(json.dumps(metadata))
    for shard in [file for file in (array / "c").rglob("*") if file.is_file()]:
        shard.rename(array / shard.relative_to(array).as_posix().replace("/", "."))
