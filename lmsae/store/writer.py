"""Writes the activations of one hook point in token order, as they come from the model."""

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.errors import ArtifactError, DamagedArtifact, NotEnoughTokens, ShapeError
from lmsae.store.array import create_array, find_store, shard_path
from lmsae.store.codec import CODECS, Codec, require_storable
from lmsae.store.layout import Layout
from lmsae.store.norms import check_norms, create_norms, norms_file, norms_path, write_norms
from lmsae.store.shard import ShardWriter, read_chunk, read_index


class StoreWriter:
    """Appends contexts to a store. As a context manager it closes the store, or after an error drops the last shard.

    It writes to the disk in the background, at most one batch behind. The first batch sets the parameters of the codec.
    Apart from that, the same activations give the same bytes, however they are cut into batches. Finished shards stay
    when the writer dies, and another writer may continue: `start_context=finished_contexts(path, layout)`.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        start_context: int = 0,
        require_claim: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin at `start_context`: 0 makes a new store, and a multiple of `layout.shard_contexts` continues one.

        `require_claim` raises an error if the store is another process's by now. It is asked before each batch, and
        before a shard is given its name.

        Raises:
            ArtifactError: if the store to continue has another layout, or names its shards otherwise.
        """
        assert start_context % layout.shard_contexts == 0 or start_context == layout.contexts
        self._path, self._layout, self._require_claim = path, layout, require_claim
        path.mkdir(parents=True, exist_ok=True)
        self._codec: Codec | None = None
        if start_context:
            found = find_store(path)
            if not found.can_go_on(layout):
                raise ArtifactError(
                    f"{path}: cannot go on writing: the store there has {found.layout} and shards "
                    f"{shard_path(Path(), 0, found.separator)}, wanted {layout} and {shard_path(Path(), 0)}."
                )
            self._codec = CODECS[layout.dtype].from_attributes(layout, found.codec_attributes)
        self._appended = start_context
        self._files = _Files(path, layout, start_context, require_claim)
        self._background = ThreadPoolExecutor(1, "lmsae-writer")
        self._coming: Future[None] | None = None
        # One is filled while the other is written. Their memory is reused: fresh pages cost ten times the copy.
        nothing = torch.empty((0, *layout.stored_shape[1:]), dtype=getattr(torch, layout.dtype))
        self._staging = cycle([[nothing], [nothing.clone()]])

    def append(self, activations: Float[Tensor, "contexts context_size width"]) -> None:
        """Write the next contexts in the store's dtype.

        Raises:
            ShapeError: if contexts of this shape, or so many of them, do not belong in this store.
            SourceError: if a value is NaN or infinite, or becomes infinite in the store's dtype.
            NoSpaceError: if the disk is full. The next append, or close, may be the first to notice.
        """
        self._require_claim()
        shape, layout = tuple(activations.shape), self._layout
        if shape[1:] != layout.shape[1:] or self._appended + shape[0] > layout.contexts:
            raise ShapeError(
                f"{self._path}: activations of shape {shape} do not fit behind {self._appended:,} contexts "
                f"of a store of shape {layout.shape}."
            )
        if not shape[0]:
            return
        norms = torch.linalg.vector_norm(activations, dim=-1, dtype=torch.float32).cpu()
        # A norm bounds every value, so that few values need a look of their own.
        if not norms.isfinite().all():
            require_storable(activations, activations.isfinite(), layout.dtype, self._name_context)
        codec = self._codec or self._create(activations)
        if norms.max() > codec.largest_norm:
            require_storable(activations, codec.storable_mask(activations), layout.dtype, self._name_context)
        stored = self._staging_memory(shape[0])
        codec.encode(activations, stored)
        self._appended += shape[0]
        self._settle()
        contexts = stored.view(torch.uint8).numpy().reshape(shape[0], -1)
        self._coming = self._background.submit(self._files.append, contexts, norms.numpy())

    def close(self) -> None:
        """Write the rest, once every context has been appended.

        Raises:
            NotEnoughTokens: if contexts are missing.
        """
        if self._appended < self._layout.contexts:
            raise NotEnoughTokens(
                f"{self._path}: {self._appended:,} of {self._layout.contexts:,} contexts were written: "
                "the store is unfinished."
            )
        self._settle()
        self._files.close()
        self._background.shutdown()

    def abandon(self) -> None:
        """Drop the unfinished shard and keep the finished ones."""
        self._background.shutdown()
        self._files.abandon()

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

    def _create(self, activations: Tensor) -> Codec:
        """Create the new store, with the codec that fits its first activations. Returns the codec."""
        self._codec = CODECS[self._layout.dtype].fit(self._layout, activations)
        create_norms(self._path, self._layout)
        create_array(self._path, self._layout, self._codec.attributes)
        return self._codec

    def _staging_memory(self, contexts: int) -> Tensor:
        """Memory for stored contexts. The call after the next one gives the same memory again."""
        slot = next(self._staging)
        if len(slot[0]) < contexts:
            slot[0] = slot[0].new_empty((contexts, *slot[0].shape[1:]))
        return slot[0][:contexts]

    def _settle(self) -> None:
        """Wait until the contexts of the last append are written."""
        coming, self._coming = self._coming, None
        if coming:
            coming.result()

    def _name_context(self, context: int) -> str:
        """The name, for a message, of one of the contexts that are being appended."""
        return f"{self._path}: context {self._appended + context:,}"


class _Files:
    """The files of a store and of its norms, shard by shard. Both are finished at the same contexts."""

    def __init__(self, path: Path, layout: Layout, start_context: int, require_claim: Callable[[], None]) -> None:
        self._path, self._layout, self._require_claim = path, layout, require_claim
        self._written = start_context
        self._shard: ShardWriter | None = None
        self._norms = np.zeros((layout.shard_contexts, layout.context_size), dtype="<f4")
        self._chunk = np.empty((layout.chunk_contexts, layout.chunk_bytes // layout.chunk_contexts), dtype=np.uint8)
        self._chunk_filled = 0

    def append(self, contexts: np.ndarray, norms: np.ndarray) -> None:
        """Write contexts, uint8 (contexts, bytes of a context), and the norms of their tokens."""
        layout = self._layout
        while len(contexts):
            if self._chunk_filled == 0 and len(contexts) >= layout.chunk_contexts:
                taken = layout.chunk_contexts
                chunk = contexts[:taken]
            else:
                taken = min(len(contexts), layout.chunk_contexts - self._chunk_filled)
                self._chunk[self._chunk_filled : self._chunk_filled + taken] = contexts[:taken]
                chunk, self._chunk_filled = self._chunk, self._chunk_filled + taken
            behind = self._written % layout.shard_contexts
            self._norms[behind : behind + taken] = norms[:taken]
            if self._chunk_filled in (0, layout.chunk_contexts):
                self._chunk_filled = 0
                self._write_chunk(chunk)
            self._written += taken
            contexts, norms = contexts[taken:], norms[taken:]

    def close(self) -> None:
        """Write the rest, padded with zeros to whole chunks."""
        if self._chunk_filled:
            self._chunk[self._chunk_filled :] = 0
            self._write_chunk(self._chunk)
        if self._shard:
            self._finish_shard(self._shard)

    def abandon(self) -> None:
        """Drop the unfinished shard."""
        if self._shard:
            self._shard.abandon()
            self._shard = None

    def _write_chunk(self, chunk: np.ndarray) -> None:
        if self._shard is None:
            self._number = self._written // self._layout.shard_contexts
            self._shard = ShardWriter(shard_path(self._path, self._number), self._layout.shard_chunks)
        self._shard.add(chunk)
        if self._shard.is_full:
            self._finish_shard(self._shard)

    def _finish_shard(self, shard: ShardWriter) -> None:
        self._require_claim()
        write_norms(norms_file(self._path, self._number), self._norms)
        self._norms[:] = 0
        shard.finish()
        self._shard = None


def finished_contexts(path: Path, layout: Layout) -> int:
    """The contexts in the whole shards, from the first on, that an earlier writer of the same layout left at `path`.

    All these shards are read, and their checksums are checked.
    """
    try:
        found = find_store(path)
    except ArtifactError:
        return 0
    if not found.can_go_on(layout):
        return 0
    for shard in range(layout.shards):
        try:
            _check_shard(shard_path(path, shard), layout, shard)
            check_norms(norms_file(path, shard), layout)
        except DamagedArtifact:
            return shard * layout.shard_contexts
    return layout.contexts


def drop_unfinished(path: Path, layout: Layout, contexts: int) -> None:
    """Remove all from the folders of a store and its norms but the metadata and the shards of the first contexts."""
    shards = range(-(-contexts // layout.shard_contexts))
    for folder, file in ((path, shard_path), (norms_path(path), norms_file)):
        metadata = [folder / "zarr.json"] if contexts else []
        _remove_all_but({*metadata, *(file(path, shard) for shard in shards)}, folder)


def _remove_all_but(files: Collection[Path], folder: Path) -> None:
    """Remove all that is below a folder, but some files and the folders that they are in."""
    kept = {*files, *(above for file in files for above in file.parents)}
    for entry in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if entry in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            with suppress(OSError):  # not empty: a process that was taken over from is just writing there
                entry.rmdir()
        else:
            entry.unlink(missing_ok=True)


def _check_shard(path: Path, layout: Layout, shard: int) -> None:
    """Raise DamagedArtifact unless a shard is as a writer writes it: its index, and every chunk with its checksum."""
    index, chunk = read_index(path, layout, shard), np.empty(layout.chunk_bytes, dtype=np.uint8)
    with path.open("rb") as file:
        for number, (offset, _) in enumerate(index):
            read_chunk(file.fileno(), path, number, int(offset), chunk)
