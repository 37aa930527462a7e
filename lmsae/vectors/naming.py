"""The places of vectors in files, in the place of the documents of a text: what features names each piece by."""

from typing import TYPE_CHECKING

import numpy as np

from lmsae.lm.resolving import ResolvedModel
from lmsae.text.tokens import Split, TokenSet
from lmsae.vectors.headers import Part
from lmsae.vectors.sources import header_of

if TYPE_CHECKING:
    import pyarrow as pa


class VectorPlaces:
    """The files that the vectors of one split come from, and the vectors' numbers there."""

    def __init__(self, tokens: TokenSet, split: Split, source: ResolvedModel) -> None:
        self._numbers = tokens.train if split == "train" else tokens.held_out
        parts = header_of(source).parts
        self._names = [_name(part) for part in parts]
        self._starts = np.cumsum([0, *(part.vectors for part in parts)])

    def place(self, contexts: np.ndarray, positions: np.ndarray) -> "tuple[pa.Array, np.ndarray]":
        """The file of each vector, by the numbers of their contexts in the split and their positions, and the vector's
        number in it, counted from 0 over all contexts."""
        import pyarrow as pa

        if not len(contexts):
            return pa.array([], pa.string()), np.zeros(0, np.int64)
        first = self._numbers[0 : int(contexts.max()) + 1][contexts, positions].astype(np.int64)
        part = np.searchsorted(self._starts, first, side="right") - 1
        return pa.array(self._names, pa.string()).take(pa.array(part)), first - self._starts[part]


def _name(part: Part) -> str:
    return f"{part.path.name}#{part.tensor}" if part.tensor else part.path.name
