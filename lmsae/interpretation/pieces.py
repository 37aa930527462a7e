"""Pieces of text that show a latent: those around its largest codes, and samples of each quantile bin."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lmsae.interpretation.arrow import list_of
from lmsae.interpretation.config import Shown
from lmsae.interpretation.context_text import ContextText
from lmsae.interpretation.firings import Block
from lmsae.interpretation.schema import CONTEXTS_SCHEMA, TOP, quantile_kind
from lmsae.kernels.cpu import tallies
from lmsae.kernels.cpu.tallies import NOBODY


@dataclass(frozen=True, slots=True)
class Peaks:
    """The firings that pieces are shown around, by latent, then kind, then rank.

    `latents` count from 0 in their block; `kinds` are 0 for the largest, then the number of the quantile bin from 1 on;
    `indices` are firings of the block.
    """

    latents: np.ndarray
    kinds: np.ndarray
    ranks: np.ndarray
    indices: np.ndarray


def choose_peaks(block: Block, largest: np.ndarray, text: ContextText, shown: Shown) -> Peaks:
    """Choose the peaks of each latent. `largest` are the largest sizes of their codes."""
    arrays = block.starts, block.slots, block.values
    top = tallies.find_peaks(*arrays, text.context_size, shown.top_contexts)
    sampled = tallies.sample_bins(
        *arrays, largest, shown.quantiles, shown.quantile_samples, shown.seed, block.first, text.first_slot
    )
    kinds = [np.zeros(shown.top_contexts, int), np.repeat(np.arange(shown.quantiles) + 1, shown.quantile_samples)]
    ranks = [np.arange(shown.top_contexts), np.tile(np.arange(shown.quantile_samples), shown.quantiles)]
    found = np.concatenate([top, sampled.reshape(len(block), -1)], axis=1)
    latents, places = np.nonzero(found != NOBODY)
    return Peaks(latents, np.concatenate(kinds)[places], np.concatenate(ranks)[places], found[latents, places])


@dataclass(frozen=True, slots=True)
class Sources:
    """The positions that peaks attend to, and how much: (latents, ranks, sources) each, of all latents.

    Behind the last position stands NOBODY.
    """

    positions: np.ndarray
    weights: np.ndarray


def pieces_table(
    block: Block, peaks: Peaks, text: ContextText, shown: Shown, sources: Sources | None = None
) -> pa.Table:
    """Rows of `contexts.parquet`: the text around each peak, with the latent's codes there."""
    size, slots = text.context_size, block.slots[peaks.indices].astype(np.int64)
    contexts, positions = np.divmod(slots, size)
    begins = np.maximum(positions - shown.tokens_before, 0)
    lengths = np.minimum(positions + shown.tokens_after + 1, size) - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    first_slots = contexts * size + begins
    codes = tallies.read_windows(block.starts, block.slots, block.values, peaks.latents, first_slots, offsets)
    # The slot of every token shown.
    places = np.arange(offsets[-1]) + np.repeat(first_slots - offsets[:-1], lengths)
    table, index = text.table_and_index
    words = pa.array(table, pa.string()).take(pa.array(index.reshape(-1)[places]))
    names, in_document = _documents(text, contexts, positions)
    of_source = _source_columns(block, peaks, sources)
    columns = {
        "latent": pa.array(block.first + peaks.latents, pa.int32()),
        "kind": _kind_names(shown).take(pa.array(peaks.kinds)),
        "rank": pa.array(peaks.ranks, pa.int16()),
        "activation": pa.array(block.values[peaks.indices], pa.float32()),
        "document": names,
        "document_token": in_document,
        "context": pa.array(text.first_context + contexts, pa.int32()),
        "position": pa.array(positions, pa.int32()),
        "start": pa.array(begins, pa.int32()),
        "tokens": list_of(lengths, pa.array(text.ids.reshape(-1)[places], pa.int32()), _type("tokens")),
        "texts": list_of(lengths, words, _type("texts")),
        "activations": list_of(lengths, pa.array(codes, mask=~text.counted.reshape(-1)[places]), _type("activations")),
        **of_source,
    }
    return pa.table(columns, schema=CONTEXTS_SCHEMA)


def _documents(text: ContextText, contexts: np.ndarray, positions: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """The names of the peaks' documents, and the peaks' places in them; null if nobody knows them."""
    if text.documents is None:
        return pa.nulls(len(contexts), pa.string()), pa.nulls(len(contexts), pa.int64())
    names, places = text.documents.place(text.first_context + contexts, positions)
    return names, pa.array(places, pa.int64())


def _source_columns(block: Block, peaks: Peaks, sources: Sources | None) -> dict[str, pa.Array]:
    """The columns of the positions that peaks attend to, null where there is no attention or no rank."""
    count = len(peaks.indices)
    if sources is None:
        return {name: pa.nulls(count, _type(name)) for name in ("source_positions", "source_weights")}
    is_top = peaks.kinds == 0
    latents, ranks = block.first + peaks.latents[is_top], peaks.ranks[is_top]
    positions, weights = sources.positions[latents, ranks], sources.weights[latents, ranks]
    there = positions != NOBODY
    lengths = np.zeros(count, int)
    lengths[is_top] = there.sum(1)
    return {
        "source_positions": list_of(
            lengths, pa.array(positions[there], pa.int32()), _type("source_positions"), is_null=~is_top
        ),
        "source_weights": list_of(
            lengths, pa.array(weights[there], pa.float32()), _type("source_weights"), is_null=~is_top
        ),
    }


def _kind_names(shown: Shown) -> pa.Array:
    return pa.array([TOP, *map(quantile_kind, range(shown.quantiles))], pa.string())


def _type(name: str) -> pa.DataType:
    return CONTEXTS_SCHEMA.field(name).type
