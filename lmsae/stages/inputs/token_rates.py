"""Token frequency: how often each token id occurs in the text that dictionaries are trained on."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lmsae.lm.resolving import ResolvedModel

if TYPE_CHECKING:
    from lmsae.evaluation.scoring import HeldOutText
    from lmsae.text.tokens import TokenSet

RATE_TOKENS = 2**20
"""Training tokens in which ids are counted, for bins by token frequency."""


def with_counts(text: "HeldOutText", tokens: "TokenSet", token_ids: ResolvedModel | None) -> "HeldOutText":
    """The same held-out text with the number of usable tokens of each id at the head of the training text. `token_ids`
    are those beside own activations, which without them have no frequency."""
    if not tokens.numbers_vectors:
        return replace(text, counts=_count(*_head(tokens), tokens.d_vocab))
    if token_ids is None:
        return text
    from lmsae.vectors.token_ids import MOST_IDS, StoredIds

    stored, (numbers, usable) = StoredIds(token_ids), _head(tokens)
    counts = _count(stored.read(numbers), usable, MOST_IDS)
    return replace(text, token_ids=stored.read(text.ids[: len(text.usable)]), counts=counts)


def _head(tokens: "TokenSet") -> tuple[np.ndarray, np.ndarray]:
    """The ids of the first contexts of the training text, and which of them are usable."""
    here = slice(0, max(1, RATE_TOKENS // tokens.context_size))
    return tokens.train[here], tokens.usable("train", here)


def _count(ids: np.ndarray, usable: np.ndarray, d_vocab: int) -> np.ndarray:
    return np.bincount(ids[usable], minlength=d_vocab)
