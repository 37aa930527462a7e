"""The memory of training and of features, from the values of a row, without torch.

The size of the dataset hardly enters the formula of training.

Two windows of activations, as they are stored, are held at a time: one that batches come from, one that is being read.
Of each dictionary there are its weights and Adam's two moments. Dictionaries that share a pass take their steps in
turn, so what a step needs besides, gradients among it, is needed once. `benchmarks/memory.py` holds this against what
processes take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmsae.dictionary.config import DictionaryConfig

FLOAT_BYTES = 4
ORDER_BYTES = 49
"""Of a token of a window: its place in two permutations, whether it may be used, and four arrays of 8 bytes while one
of them is sorted."""
DATASET_BYTES = 0.05
"""Of a token of the dataset: its chunk's count and place in the order. Masks and ids lie on disk."""
COPIES = 3
"""Weights, and the two moments of Adam."""
STEP_COPIES = 2
"""The gradient, which is dropped when the step is done, and one array for its arithmetic."""
STEP_ACTIVATIONS = 6
"""Arrays (batch, width): raw, normalized, reconstructed, the error, and two gradients."""
STEP_CODES, STEP_CODES_SORTED = 3.0, 5.5
"""Arrays (batch, latents) that live at once in a step; where codes are selected over a whole batch, sorted ones too."""


@dataclass(frozen=True, slots=True)
class DictionarySize:
    """The size of a dictionary: its parameters, and its latents."""

    parameters: int
    latents: int
    selects_over_batch: bool = False

    @property
    def step_codes(self) -> float:
        """Items of the arrays that a token needs in a step."""
        return self.latents * (STEP_CODES_SORTED if self.selects_over_batch else STEP_CODES)


def size_of(dictionary: DictionaryConfig) -> DictionarySize:
    """The size of a dictionary, by its config: the weights that a token is multiplied by once each. Biases are left
    out, as are the thresholds."""
    geometry = dictionary.geometry
    weights = geometry.products(dictionary.widths, dictionary.d_sae, context_size=0)
    latents = geometry.latents(dictionary.widths, dictionary.d_sae)
    return DictionarySize(round(sum(weights)), latents, dictionary.act_fn.selects_over_batch)


def training_bytes(
    *,
    window_tokens: int,
    token_bytes: int,
    batch_size: int,
    width: int,
    dictionaries: Sequence[DictionarySize],
    dataset_tokens: int,
) -> int:
    """Bytes at the peak of a training pass on the CPU, beyond those of a process that has all libraries loaded.

    Args:
        window_tokens: `train.window_tokens`; fewer if the dataset has fewer.
        token_bytes: of a token as it is stored (`Layout.token_bytes`), summed over hook points.
        batch_size: `train.batch_size`, divided by `train.gradient_accumulation` for what a step needs.
        width: of what is read and written, side by side, both counted if they differ.
        dictionaries: those of the pass.
        dataset_tokens: in the whole store.
    """
    data = 2 * window_tokens * token_bytes + window_tokens * ORDER_BYTES + DATASET_BYTES * dataset_tokens
    states = FLOAT_BYTES * COPIES * sum(size.parameters for size in dictionaries)
    codes = max(size.step_codes for size in dictionaries)
    gradient = STEP_COPIES * max(size.parameters for size in dictionaries)
    step = FLOAT_BYTES * (batch_size * (codes + STEP_ACTIVATIONS * width) + gradient)
    return round(data + states + step)


CODES_AT_ONCE, TOKENS_AT_ONCE = 1 << 24, 8192
"""The most codes, and the most tokens, that features computes at a time (lmsae/interpretation/gathering.py)."""
CODE_ARRAYS = 12
"""Arrays of so many codes, as measured: those of this batch and of the last one, and what lies between them."""
READ_TOKEN_BYTES = 40
"""Of a token that is read: its id, whether it counts, its text, its document, its firings, and where they begin."""
FIRINGS_BYTES = 1 << 29
"""Firings in memory while latents are described: a block of them, and the rows that pairs are counted in."""
FIRING_BYTES = 24
"""Of a firing: in its block, in its row, and while it is sorted."""
TABLES_BYTES = 1 << 27
"""The tables of a row group."""
WAITING_BYTES = 16 << 20
"""Firings of each dictionary that wait for their file, and what sorts them."""


def describing_bytes(*, tokens: int, dictionaries: Sequence[DictionarySize]) -> int:
    """Bytes at the peak of a features pass on the CPU, likewise, beyond a language model's. The largest dictionary's
    rows are there twice while neighbors are looked for."""
    weights = FLOAT_BYTES * (sum(size.parameters for size in dictionaries) + max(s.parameters for s in dictionaries))
    latents = max(size.latents for size in dictionaries)
    at_once = max(latents, min(CODES_AT_ONCE, TOKENS_AT_ONCE * latents))
    firings = min(FIRINGS_BYTES, FIRING_BYTES * tokens * latents)
    work = max(FLOAT_BYTES * CODE_ARRAYS * at_once, firings) + TABLES_BYTES
    return round(weights + work + WAITING_BYTES * len(dictionaries) + READ_TOKEN_BYTES * tokens)
