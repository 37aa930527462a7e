"""Arrays (contexts, context_size), such as masks and token ids, on disk: memory does not grow with the dataset."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np


class SpilledArray:
    """An array (contexts, context_size) in a nameless file, which is gone when nobody holds the array.

    It is read by position and not mapped, so that it does not count as memory of this process.
    """

    def __init__(self, blocks: Iterable[np.ndarray], folder: Path) -> None:
        """Write blocks of contexts, at least one, behind each other on the disk of `folder`."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (nameless on disk)
        weakref.finalize(self, self._file.close)
        contexts = context_size = 0
        for block in blocks:
            self.dtype, context_size = block.dtype, block.shape[1]
            self._file.write(np.ascontiguousarray(block).data)
            contexts += len(block)
        self._file.flush()
        self.shape = contexts, context_size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, contexts: slice | np.ndarray) -> np.ndarray:
        """Contexts by a slice without a step, or by their numbers in any order."""
        if isinstance(contexts, slice):
            start, stop, _ = contexts.indices(len(self))
            return self._read(start, max(stop - start, 0))
        cuts = np.flatnonzero(np.diff(contexts) != 1) + 1
        runs = np.split(contexts, cuts)
        return np.concatenate([self._read(int(run[0]), len(run)) for run in runs if len(run)] or [self[0:0]])

    def _read(self, start: int, contexts: int) -> np.ndarray:
        context_bytes = self.shape[1] * self.dtype.itemsize
        data = os.pread(self._file.fileno(), contexts * context_bytes, start * context_bytes)
        return np.frombuffer(data, self.dtype).reshape(contexts, self.shape[1])
