"""Firings: the codes that are not 0, written token by token and read back latent by latent.

Codes of a million tokens and 16,384 latents would take 64 GB as a matrix, and those that are not 0 half a GB. They go
to nameless files in runs, each sorted by latent, so that a few latents' firings can be read alone. Memory holds a run,
and about 20 bytes a token.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from lmsae.kernels import cpu as cpu_kernels
from lmsae.runtime.disk import explain_full_disk

RUN_FIRINGS = 1 << 20
"""Firings of a run: 12 MiB."""
BLOCK_FIRINGS = 1 << 22
"""The most firings that are read back at a time, but for those of a single cell."""
CELL_LATENTS = 32
"""Latents whose firings are found without reading others."""
RECORD = 3 * 4
"""Bytes of a firing in a run: latent, slot and code."""


@dataclass(frozen=True, slots=True)
class Block:
    """The firings of neighboring latents, latent by latent, in the order of the text.

    Those of latent `first` + i go from starts[i] to starts[i + 1]. `slots` are tokens: context * context_size +
    position, contexts counted from the first that was read.
    """

    first: int
    starts: np.ndarray
    slots: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """The latents that fire at each slot: those of slot s are latents[starts[s]:starts[s + 1]].

    `tokens` is the number of tokens that count among the contexts taken, of which there is one in `stride`.
    """

    starts: np.ndarray
    latents: np.ndarray
    tokens: int
    stride: int


class Firings:
    """The firings of one dictionary. As a context manager it drops its files at the end."""

    def __init__(self, directory: Path, latents: int) -> None:
        self._by_latent, self._by_token = (tempfile.TemporaryFile(dir=directory) for _ in range(2))  # noqa: SIM115
        self._where, self.latents = directory, latents
        self._edges = np.arange(0, latents + CELL_LATENTS, CELL_LATENTS)
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._runs: list[tuple[int, np.ndarray]] = []
        self._l0: list[np.ndarray] = []
        self._written = 0
        self.active = np.zeros(latents, np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the files."""
        self._by_latent.close()
        self._by_token.close()

    def append(self, l0: np.ndarray, latents: np.ndarray, slots: np.ndarray, values: np.ndarray) -> None:
        """Add the next slots: the number of firings of each slot, and of each firing, slot by slot, its latent, slot
        and value. Raises NoSpaceError."""
        latents = latents.astype(np.int32)
        with explain_full_disk(self._where):
            self._by_token.write(latents.tobytes())
        self._l0.append(l0.astype(np.int32))
        self.active += np.bincount(latents, minlength=self.latents)
        self._waiting.append((latents, slots.astype(np.int32), values.astype(np.float32)))
        if sum(len(part[0]) for part in self._waiting) >= RUN_FIRINGS:
            self._write_run()

    def _write_run(self) -> None:
        waiting = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        self._waiting = []
        for begin in range(0, len(waiting[0]), 2 * RUN_FIRINGS):
            latents, slots, values = (part[begin : begin + 2 * RUN_FIRINGS] for part in waiting)
            starts, slots, order = _sort(latents, self.latents, slots)
            with explain_full_disk(self._where):
                for part in (latents[order], slots, values[order]):
                    self._by_latent.write(part.tobytes())
            self._runs.append((self._written, starts[np.minimum(self._edges, self.latents)]))
            self._written += len(latents) * RECORD

    def blocks(self, first: int, last: int) -> Iterator[Block]:
        """The firings of latents `first` to `last`, in blocks that fit into memory. They begin and end with a cell."""
        assert first % CELL_LATENTS == 0
        if self._waiting:
            self._write_run()
        self._by_latent.flush()
        cells = range(first // CELL_LATENTS, -(-last // CELL_LATENTS))
        sizes = {cell: sum(int(ends[cell + 1] - ends[cell]) for _, ends in self._runs) for cell in cells}
        begin, size = cells.start, 0
        for cell in cells:
            if size and size + sizes[cell] > BLOCK_FIRINGS:
                yield self._read(begin, cell)
                begin, size = cell, 0
            size += sizes[cell]
        yield self._read(begin, cells.stop)

    def _read(self, begin: int, end: int) -> Block:
        """The firings of the latents of some cells."""
        first, last = begin * CELL_LATENTS, min(end * CELL_LATENTS, self.latents)
        parts = [self._read_run(at, ends, int(ends[begin]), int(ends[end])) for at, ends in self._runs]
        latents, slots, values = (
            np.concatenate([part[i] for part in parts]) if parts else np.empty(0, kind)
            for i, kind in enumerate((np.int32, np.int32, np.float32))
        )
        starts, slots, order = _sort(latents - np.int32(first), last - first, slots)
        return Block(first, starts, slots, values[order])

    def _read_run(self, at: int, ends: np.ndarray, begin: int, end: int) -> tuple[np.ndarray, ...]:
        """Latents, slots and values of the firings `begin` to `end` of a run that starts at byte `at`."""
        total, file = int(ends[-1]), self._by_latent.fileno()
        where = [at + 4 * (number * total + begin) for number in range(3)]
        kinds = (np.int32, np.int32, np.float32)
        return tuple(
            np.frombuffer(os.pread(file, 4 * (end - begin), place), kind)
            for place, kind in zip(where, kinds, strict=True)
        )

    def rows(self, counted: np.ndarray, most_pairs: int, most_firings: int) -> Rows:
        """The latents that fire at each slot of all contexts or, if those had more than so many pairs of latents or
        firings, of every second, third ... context. `counted` (contexts, context_size) are the tokens that count."""
        self._by_token.flush()
        l0 = np.concatenate([*self._l0, np.zeros(0, np.int32)]).astype(np.int64)
        l0 = np.pad(l0, (0, counted.size - len(l0)))
        stride = int(max(-(-int((l0 * l0).sum()) // most_pairs), -(-int(l0.sum()) // most_firings), 1))
        by_context = l0.reshape(counted.shape)
        ends = np.concatenate([[0], np.cumsum(by_context.sum(1))]).tolist()
        taken = range(0, len(counted), stride)
        if stride == 1:
            parts = [self._read_rows(0, ends[-1])]
        else:
            by_context = np.where(np.arange(len(counted))[:, None] % stride == 0, by_context, 0)
            parts = [self._read_rows(ends[context], ends[context + 1]) for context in taken]
        starts = np.concatenate([[0], np.cumsum(by_context)])
        return Rows(starts, np.concatenate(parts), int(counted[::stride].sum()), stride)

    def _read_rows(self, begin: int, end: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._by_token.fileno(), 4 * (end - begin), 4 * begin), np.int32)


def _sort(latents: np.ndarray, count: int, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The starts of each latent's firings, the slots in the order of latents, and the old index of each."""
    columns, others = torch.from_numpy(np.ascontiguousarray(latents)), torch.from_numpy(np.ascontiguousarray(slots))
    starts, slots_in_order, order = cpu_kernels.sort_by_column(columns, count, others)
    return starts.numpy(), slots_in_order.numpy(), order.numpy()
