"""The text that was read: its tokens, which of them count, and the documents that they come from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from lmsae.interpretation.texts import TokenTexts


class Documents(Protocol):
    """The documents of a text."""

    def place(self, contexts: np.ndarray, positions: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """The documents of some tokens, by the numbers of their contexts in the split and their positions: their names,
        and the places of the tokens among their documents' tokens."""
        ...


@dataclass(frozen=True)
class ContextText:
    """Contexts that follow each other in a split: token ids and which of them count, both (contexts, context_size)."""

    ids: np.ndarray
    counted: np.ndarray
    texts: TokenTexts
    first_context: int = 0
    documents: Documents | None = None

    @property
    def context_size(self) -> int:
        return self.ids.shape[1]

    @property
    def first_slot(self) -> int:
        """The number of the first token among those of the split."""
        return self.first_context * self.context_size

    @property
    def tokens(self) -> int:
        """The number of tokens that count."""
        return int(self.counted.sum())

    @cached_property
    def occurrences(self) -> np.ndarray:
        """The number of times that each token of the vocabulary counts."""
        return np.bincount(self.ids[self.counted], minlength=len(self.texts))

    @cached_property
    def table_and_index(self) -> tuple[list[str], np.ndarray]:
        """A list of texts, and for each token the index of its text there."""
        return self.texts.in_contexts(self.ids)

    def count_positions(self, edges: tuple[int, ...]) -> np.ndarray:
        """The tokens that count in each bin of positions."""
        return np.add.reduceat(self.counted.sum(0), edges[:-1])
