"""Describing: firings, text and weights as the three files of the stage `features`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.interpretation.arrow import list_of, ranked
from lmsae.interpretation.config import Shown
from lmsae.interpretation.context_text import ContextText
from lmsae.interpretation.firings import Firings
from lmsae.interpretation.logits import LogitWay
from lmsae.interpretation.pieces import Sources, choose_peaks, pieces_table
from lmsae.interpretation.ranking import Ranked, rank_logits, rank_neighbors
from lmsae.interpretation.schema import (
    CONTEXTS,
    CONTEXTS_SCHEMA,
    GROUP_LATENTS,
    INFO,
    LATENTS,
    LATENTS_SCHEMA,
    Info,
    Location,
    Split,
)
from lmsae.interpretation.sides import read_squares, write_squares, written_rows
from lmsae.interpretation.tallying import Tally, words_of
from lmsae.kernels.cpu import tallies
from lmsae.runtime.disk import explain_full_disk

MOST_PAIRS, MOST_FIRINGS = 1 << 32, 1 << 26
"""The most pairs of latents that are counted, and the most firings in memory for it. Where there are more, companions
are counted on every second, third ... context."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A dictionary whose latents are described, and the facts about it that its files hold."""

    dictionary: Dictionary
    models: Sequence[str]
    reads: Sequence[Location]
    writes: Sequence[Location]
    dataset: str
    split: Split
    way: LogitWay | str
    """The way to logits, or the reason that there is none."""


def describe(
    subject: Subject,
    firings: Firings,
    text: ContextText,
    shown: Shown,
    out: Path,
    advance: Callable[[int], None] = lambda latents: None,
    sources: Sources | None = None,
) -> Info:
    """Write `features.json`, `latents.parquet` and `contexts.parquet` into a folder; returns the facts.

    `advance` is called with the number of latents that are done. Raises NoSpaceError.
    """
    rows = firings.rows(text.counted, MOST_PAIRS, MOST_FIRINGS)
    tally = Tally(text, shown, rows, firings.latents)
    weights = _Weights(subject, shown, text.texts.texts)
    with (
        explain_full_disk(out),
        pq.ParquetWriter(out / LATENTS, LATENTS_SCHEMA, compression="zstd") as latents,
        pq.ParquetWriter(out / CONTEXTS, CONTEXTS_SCHEMA, compression="zstd") as contexts,
    ):
        for first in range(0, firings.latents, GROUP_LATENTS):
            last = min(first + GROUP_LATENTS, firings.latents)
            counted, pieces = [], []
            for block in firings.blocks(first, last):
                sums, largest = tallies.sum_sizes(block.starts, block.values)
                counted.append(pa.table(tally.columns(block, largest, sums)))
                peaks = choose_peaks(block, largest, text, shown)
                pieces.append(pieces_table(block, peaks, text, shown, sources))
            columns = {**_columns(pa.concat_tables(counted)), **weights.columns(first, last)}
            latents.write_table(pa.table({f.name: columns[f.name] for f in LATENTS_SCHEMA}, schema=LATENTS_SCHEMA))
            contexts.write_table(pa.concat_tables(pieces).combine_chunks())
            advance(last - first)
    info = _info(subject, firings, text, shown, rows.stride, rows.tokens)
    (out / INFO).write_text(info.model_dump_json(indent=1) + "\n")
    return info


def find_top_slots(firings: Firings, text: ContextText, shown: Shown) -> np.ndarray:
    """The slots of the peaks of kind `top`, (latents, top_contexts) int64; behind the last stands NOBODY."""
    parts = []
    for block in firings.blocks(0, firings.latents):
        found = tallies.find_peaks(block.starts, block.slots, block.values, text.context_size, shown.top_contexts)
        slots = np.append(block.slots, 0)[found].astype(np.int64)
        parts.append(np.where(found == tallies.NOBODY, tallies.NOBODY, slots))
    return np.concatenate(parts)


class _Weights:
    """The columns of `latents.parquet` that come from weights alone."""

    def __init__(self, subject: Subject, shown: Shown, words: Sequence[str]) -> None:
        dictionary, self._words = subject.dictionary, pa.array(words, pa.string())
        self._write, self._read = write_squares(dictionary), read_squares(dictionary)
        self._norms = self._write.sum(1).sqrt().numpy()
        self._neighbors: Ranked | None = None
        self._logits: tuple[Ranked, Ranked] | None = None
        if dictionary.config.geometry.writes_directions:
            rows = torch.cat([*written_rows(dictionary.geometry, dictionary.config.widths.d_out)]).detach()
            self._neighbors = rank_neighbors(rows, shown.neighbors)
            if isinstance(subject.way, LogitWay):
                directions = subject.way.to_stream(_in_raw_units(dictionary, rows))
                self._logits = rank_logits(directions, subject.way.rows.to(directions), shown.logits)

    def columns(self, first: int, last: int) -> dict[str, pa.Array]:
        """The columns of some latents."""
        here, count = slice(first, last), last - first
        read = None if self._read is None else self._read[here]
        norms = None if read is None else read.sum(1).sqrt().numpy()
        up, down = self._logits or (None, None)
        return {
            "decoder_norm": pa.array(self._norms[here], pa.float32()),
            "encoder_norm": pa.nulls(count, pa.float32()) if norms is None else pa.array(norms, pa.float32()),
            "write_norms": _shares("write_norms", self._write[here].numpy()),
            "read_norms": _shares("read_norms", np.zeros((count, 1)) if read is None else read.numpy()),
            "promoted": self._of_tokens("promoted", up, here, count),
            "suppressed": self._of_tokens("suppressed", down, here, count),
            "neighbors": _nulls("neighbors", count)
            if self._neighbors is None
            else ranked(self._neighbors.numbers[here], _type("neighbors"), self._neighbors.values[here]),
        }

    def _of_tokens(self, name: str, found: Ranked | None, here: slice, count: int) -> pa.Array:
        if found is None:
            return _nulls(name, count)
        numbers = found.numbers[here]
        return ranked(numbers, _type(name), words_of(self._words, numbers), found.values[here])


def _in_raw_units(dictionary: Dictionary, rows: Tensor) -> Tensor:
    """Rows that latents write in raw units. Where each token has a scale of its own they stay in training's units, in
    which they point the same way."""
    try:
        return dictionary.write.affine().restore_writers(rows)
    except ExportError:
        return rows


def _shares(name: str, squares: np.ndarray) -> pa.Array:
    """Each row as shares of its sum; null where that is 0."""
    total = squares.sum(1, keepdims=True)
    shares = np.divide(squares, total, out=np.zeros_like(squares), where=total > 0)
    is_null = total[:, 0] == 0
    items = pa.array(shares[~is_null].astype(np.float32).ravel(), pa.float32())
    return list_of(np.where(is_null, 0, shares.shape[1]), items, _type(name), is_null=is_null)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _nulls(name: str, count: int) -> pa.Array:
    return pa.nulls(count, _type(name))


def _type(name: str) -> pa.DataType:
    return LATENTS_SCHEMA.field(name).type


def _info(
    subject: Subject, firings: Firings, text: ContextText, shown: Shown, stride: int, companion_tokens: int
) -> Info:
    config, edges = subject.dictionary.config, shown.position_edges(text.context_size)
    every = "all tokens that count" if stride == 1 else f"every {stride}th context, {companion_tokens:,} tokens"
    return Info(
        schema_version=1,
        latents=firings.latents,
        d_sae=config.d_sae,
        geometry=config.geometry.kind,
        act_fn=config.act_fn.kind,
        signed=subject.dictionary.sparsity.signed,
        models=tuple(subject.models),
        reads=tuple(subject.reads),
        writes=tuple(subject.writes),
        dataset=subject.dataset,
        split=subject.split,
        contexts=len(text.ids),
        context_size=text.context_size,
        tokens=text.tokens,
        histogram_bins=shown.histogram_bins,
        quantiles=shown.quantiles,
        position_bins=edges,
        position_tokens=tuple(text.count_positions(edges).tolist()),
        logits=subject.way.explanation if isinstance(subject.way, LogitWay) else f"none: {subject.way}",
        companions=every,
    )
