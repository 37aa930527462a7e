"""The numbers of latents that are counted on text: how often each fires, how strongly, where and on what."""

import numpy as np
import pyarrow as pa

from lmsae.interpretation.arrow import as_lists, ranked
from lmsae.interpretation.config import Shown
from lmsae.interpretation.context_text import ContextText
from lmsae.interpretation.firings import Block, Rows
from lmsae.interpretation.schema import LATENTS_SCHEMA
from lmsae.kernels.cpu import tallies
from lmsae.kernels.cpu.tallies import NOBODY


class Tally:
    """Counts the firings of one block of latents after the other."""

    def __init__(self, text: ContextText, shown: Shown, rows: Rows, latents: int) -> None:
        self._text, self._shown, self._rows = text, shown, rows
        self._edges = shown.position_edges(text.context_size)
        self._bin_of_position = np.searchsorted(self._edges, np.arange(text.context_size), "right") - 1
        self._position_tokens = text.count_positions(self._edges)
        self._words = pa.array(text.texts.texts, pa.string())
        self._fired = np.bincount(rows.latents, minlength=latents)

    def columns(self, block: Block, largest: np.ndarray, sums: np.ndarray) -> dict[str, pa.Array]:
        """Columns of `latents.parquet`. `largest` and `sums` are of the sizes of each latent's codes."""
        active = np.diff(block.starts)
        fires = active > 0
        means = np.divide(sums, active, out=np.zeros(len(block)), where=fires)
        return {
            "latent": pa.array(np.arange(block.first, block.first + len(block)), pa.int32()),
            "active_tokens": pa.array(active, pa.int64()),
            "firing_rate": pa.array(active / self._text.tokens, pa.float64()),
            "mean_active": pa.array(means.astype(np.float32), pa.float32(), mask=~fires),
            "max_activation": pa.array(largest, pa.float32()),
            "histogram": self._histogram(block, largest),
            "position_rate": self._position_rate(block),
            "top_tokens": self._top_tokens(block),
            "companions": self._companions(block),
        }

    def _histogram(self, block: Block, largest: np.ndarray) -> pa.Array:
        counts = tallies.count_sizes(block.starts, block.values, largest, self._shown.histogram_bins)
        return as_lists(counts, _kind("histogram"))

    def _position_rate(self, block: Block) -> pa.Array:
        bins, tokens = len(self._edges) - 1, self._position_tokens
        counts = tallies.count_positions(block.starts, block.slots, self._bin_of_position, bins)
        is_null = np.broadcast_to(tokens == 0, counts.shape)
        rates = (counts / np.maximum(tokens, 1)).astype(np.float32)
        return as_lists(rates, _kind("position_rate"), is_null=is_null)

    def _top_tokens(self, block: Block) -> pa.Array:
        text, most = self._text, self._shown.top_tokens
        ids = text.ids.reshape(-1)
        tokens, active, sums = tallies.sum_by_token(block.starts, block.slots, block.values, ids, len(text.texts), most)
        rates = active / np.maximum(text.occurrences[tokens], 1)
        means = (sums / np.maximum(active, 1)).astype(np.float32)
        return ranked(tokens, _kind("top_tokens"), words_of(self._words, tokens), active, rates, means)

    def _companions(self, block: Block) -> pa.Array:
        rows, most = self._rows, self._shown.companions
        found, phi = tallies.find_companions(
            block.starts, block.slots, rows.starts, rows.latents, self._fired, rows.tokens, block.first, most
        )
        return ranked(found, _kind("companions"), phi.astype(np.float32))


def words_of(words: pa.Array, tokens: np.ndarray) -> pa.Array:
    """The words of those tokens, by id, that are somebody's."""
    return words.take(pa.array(tokens[tokens != NOBODY]))


def _kind(name: str) -> pa.DataType:
    return LATENTS_SCHEMA.field(name).type
