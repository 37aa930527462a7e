"""Writes the activations of one hook point, in token order, as they come from the model."""

import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.errors import ArtifactError, DamagedArtifact, NotEnoughTokens, ShapeError, SourceError
from lmsae.store.array import create_array, layout_at, shard_path
from lmsae.store.layout import Layout
from lmsae.store.shard import ShardWriter, read_chunk, read_index


class StoreWriter:
    """Appends contexts to a store; as a context manager it closes the store, or on an error drops the unfinished shard.

    The same activations give the same bytes, however they are cut into batches. Finished shards stay when the writer
    dies, and another may go on behind them: `start_context=finished_contexts(path, layout)`.
    """

    def __init__(self, path: Path, layout: Layout, start_context: int = 0) -> None:
        """Begin at `start_context`: 0 makes the store anew, a multiple of `layout.shard_contexts` goes on with it.

        Raises:
            ArtifactError: if the store to go on with has another layout.
        """
        if start_context == 0:
            path.mkdir(parents=True, exist_ok=True)
            create_array(path, layout)
        elif (found := layout_at(path)) != layout:
            raise ArtifactError(f"{path}: cannot go on writing: the store there has {found}, wanted {layout}.")
        assert start_context % layout.shard_contexts == 0 or start_context == layout.contexts
        self._path = path
        self._layout = layout
        self._written = start_context
        self._shard: ShardWriter | None = None
        self._chunk = np.empty((layout.chunk_contexts, layout.chunk_bytes // layout.chunk_contexts), dtype=np.uint8)
        self._chunk_filled = 0
        self._staging = torch.empty((0, *layout.shape[1:]), dtype=getattr(torch, layout.dtype))

    def append(self, activations: Float[Tensor, "contexts context_size width"]) -> None:
        """Write the next contexts, as many as there are, converted to the store's dtype.

        Raises:
            ShapeError: if contexts of this shape, or so many of them, do not belong in this store.
            SourceError: if a value is not a number, is infinite, or becomes so in the store's dtype.
            NoSpaceError: if the disk is full.
        """
        shape, layout = tuple(activations.shape), self._layout
        if shape[1:] != layout.shape[1:] or self._written + shape[0] > layout.contexts:
            raise ShapeError(
                f"{self._path}: activations of shape {shape} do not fit behind {self._written:,} contexts "
                f"of a store of shape {layout.shape}."
            )
        contexts = self._stage(activations).view(torch.uint8).numpy().reshape(shape[0], self._chunk.shape[1])
        while len(contexts):
            if self._chunk_filled == 0 and len(contexts) >= layout.chunk_contexts:
                taken = layout.chunk_contexts
                self._write_chunk(contexts[:taken])
            else:
                taken = min(len(contexts), layout.chunk_contexts - self._chunk_filled)
                self._chunk[self._chunk_filled : self._chunk_filled + taken] = contexts[:taken]
                self._chunk_filled += taken
                if self._chunk_filled == layout.chunk_contexts:
                    self._write_chunk(self._chunk)
                    self._chunk_filled = 0
            self._written += taken
            contexts = contexts[taken:]

    def close(self) -> None:
        """Write what is left; every context must have been appended.

        Raises:
            NotEnoughTokens: if some have not.
        """
        if self._written < self._layout.contexts:
            raise NotEnoughTokens(
                f"{self._path}: {self._written:,} of {self._layout.contexts:,} contexts were written: "
                "the store is unfinished."
            )
        if self._chunk_filled:
            self._chunk[self._chunk_filled :] = 0
            self._write_chunk(self._chunk)
            self._chunk_filled = 0
        if self._shard:
            self._shard.finish()
            self._shard = None

    def abandon(self) -> None:
        """Drop the unfinished shard and keep the finished ones."""
        if self._shard:
            self._shard.abandon()
            self._shard = None

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.abandon()

    def _stage(self, activations: Tensor) -> Tensor:
        """The activations on the CPU in the store's dtype. Reuses its memory: fresh pages cost ten times the copy."""
        if len(self._staging) < len(activations):
            self._staging = self._staging.new_empty(activations.shape)
        staged = self._staging[: len(activations)]
        staged.copy_(activations)
        if staged.numel() and not torch.stack(torch.aminmax(staged)).isfinite().all():
            raise self._not_finite(activations, staged)
        return staged

    def _not_finite(self, activations: Tensor, staged: Tensor) -> SourceError:
        context = int(staged.isfinite().flatten(1).all(dim=1).logical_not().nonzero()[0])
        values = activations[context]
        where = f"{self._path}: context {self._written + context:,}"
        if values.isfinite().all():
            largest, limit = values.abs().max().item(), torch.finfo(staged.dtype).max
            return SourceError(
                f"{where} holds an activation of size {largest:,.0f}, and {self._layout.dtype} ends at {limit:,.0f}: "
                "set activations.dtype=bfloat16."
            )
        return SourceError(
            f"{where} holds NaN or infinity: the model itself overflows there. Run it in float32 or "
            "bfloat16, and look at that text."
        )

    def _write_chunk(self, chunk: np.ndarray) -> None:
        layout = self._layout
        if self._shard is None:
            self._shard = ShardWriter(
                shard_path(self._path, self._written // layout.shard_contexts), layout.shard_chunks
            )
        self._shard.add(chunk)
        if self._shard.is_full:
            self._shard.finish()
            self._shard = None


def finished_contexts(path: Path, layout: Layout) -> int:
    """Contexts in the whole shards that an earlier writer of the same layout left at `path`, counted from the first.

    All of them are read, and their checksums looked at.
    """
    try:
        if layout_at(path) != layout:
            return 0
    except ArtifactError:
        return 0
    for shard in range(layout.shards):
        try:
            _check_shard(shard_path(path, shard), layout, shard)
        except DamagedArtifact:
            return shard * layout.shard_contexts
    return layout.contexts


def drop_unfinished(path: Path, layout: Layout, contexts: int) -> None:
    """Remove whatever is in the store's folder besides its metadata and the shards of its first contexts."""
    kept = {shard_path(path, shard).name for shard in range(-(-contexts // layout.shard_contexts))}
    for entry in path.iterdir() if path.exists() else ():
        if contexts == 0 or entry.name not in {"zarr.json", *kept}:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _check_shard(path: Path, layout: Layout, shard: int) -> None:
    """Raise DamagedArtifact unless a shard is what a writer writes: its index, and every chunk with its checksum."""
    places, chunk = read_index(path, layout, shard), np.empty(layout.chunk_bytes, dtype=np.uint8)
    with path.open("rb") as file:
        for number, (offset, _) in enumerate(places):
            read_chunk(file.fileno(), path, number, int(offset), chunk)
