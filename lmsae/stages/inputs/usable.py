"""The tokens of the train split that are used: not special, not masked, at a position that counts, of a normal norm."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.errors import NotEnoughTokens
from lmsae.stages.sites import Reading

if TYPE_CHECKING:
    import numpy as np

    from lmsae.text.tokens import TokenSet


class Usable:
    """The tokens that a reader of some stores uses: `usable[10:20]` is bool, (10, context_size)."""

    max_norms: list[float]
    """The largest norm used of each store; infinite without `max_norm_factor`."""

    def __init__(self, tokens: "TokenSet", stores: Sequence[Path], reading: Reading) -> None:
        """Raises NotEnoughTokens if no calibration token is left to measure the mean norm."""
        self._tokens, self._reading, self._norms = tokens, reading, []
        self.shape = tokens.train.shape
        self.max_norms = [float("inf")] * len(stores)
        if reading.max_norm_factor is not None:
            from lmsae.store.norms import TokenNorms

            self._norms = [TokenNorms(store) for store in stores]
            calibration = slice(0, tokens.calibration_contexts)
            counted = self._by_place(calibration)
            if not counted.any():
                raise NotEnoughTokens(
                    "no calibration token may be used, so there is no mean norm for activations.max_norm_factor: raise "
                    "tokenize.calibration_tokens, or lower activations.skip_*_positions"
                )
            means = [float(norms[calibration][counted].mean(dtype="float64")) for norms in self._norms]
            self.max_norms = [reading.max_norm_factor * mean for mean in means]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, contexts: slice) -> "np.ndarray":
        usable = self._by_place(contexts)
        for norms, limit in zip(self._norms, self.max_norms, strict=False):
            usable &= norms[contexts] <= limit
        return usable

    def _by_place(self, contexts: slice) -> "np.ndarray":
        reading = self._reading
        return self._tokens.usable("train", contexts, reading.skip_first_positions, reading.skip_last_positions)
