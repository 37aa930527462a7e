"""The unigram loss: what a model that knows how often each token comes, and nothing else, pays for held-out text."""

from collections.abc import Iterable

import numpy as np

Block = tuple[np.ndarray, np.ndarray]
"""Token ids and which of them count, both (contexts, context_size)."""


def count_following(blocks: Iterable[Block], d_vocab: int) -> np.ndarray:
    """The number of times that each id (d_vocab,) follows a token that counts. The last token of a context has none
    behind it."""
    counts = np.zeros(d_vocab, np.int64)
    for ids, counted in blocks:
        counts += np.bincount(ids[:, 1:][counted[:, :-1]], minlength=d_vocab)
    return counts


def unigram_cross_entropy(train: np.ndarray, held_out: np.ndarray) -> float:
    """Nats a token that `held_out` counts of ids (d_vocab,) cost by the shares of `train` counts (d_vocab,).

    Every id counts once more than it was seen (Laplace), so none is impossible.
    """
    log_p = np.log(train + 1.0) - np.log(train.sum() + len(train))
    return float(-(held_out * log_p).sum() / held_out.sum())
