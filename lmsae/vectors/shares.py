"""The three shares of own activations: which contexts are for calibration, for training and held out.

Files are often sorted, by class or by time, so that neither their head nor their tail is like the rest. So contexts are
drawn: those with the smallest of random words are held out, the next are the calibration split, and the others are
trained on. Each share keeps the order of the files. The words are raw ones of NumPy's Philox generator, which NumPy
promises never to change.
"""

from dataclasses import dataclass

import numpy as np

from lmsae.errors import NotEnoughTokens
from lmsae.text.packing import TokenizeConfig


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of contexts in each share; the rest is left over."""

    calibration: int
    train: int
    held_out: int


def count_shares(contexts: int, packing: TokenizeConfig) -> Counts:
    """The sizes of the shares of so many contexts. Raises NotEnoughTokens if one of them would be empty."""
    size = packing.context_size
    held_out = min(packing.most_held_out_contexts, max(1, round(contexts * packing.held_out_fraction)))
    calibration = packing.calibration_contexts
    left = contexts - held_out - calibration
    if left < 1:
        raise NotEnoughTokens(
            f"there are {contexts * size:,} vectors in {contexts:,} contexts of {size:,}; {held_out * size:,} are held "
            f"out and {calibration * size:,} are for calibration, which leaves none to train on: lower "
            "tokenize.calibration_tokens or tokenize.context_size"
        )
    train = left if packing.tokens is None else min(left, packing.tokens // size)
    return Counts(calibration, train, held_out)


def draw_shares(contexts: int, packing: TokenizeConfig) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the contexts of the train split, those for calibration first, and of the held-out split."""
    from lmsae.kernels.cpu import argsort_words

    counts = count_shares(contexts, packing)
    words = np.random.Philox(np.random.SeedSequence(packing.seed)).random_raw(contexts)
    drawn, ends = argsort_words(words), np.cumsum([counts.held_out, counts.calibration, counts.train])
    held_out, calibration, train, _ = (np.sort(share) for share in np.split(drawn, ends))
    return np.concatenate([calibration, train]), held_out
