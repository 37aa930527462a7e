"""Gathering: a dictionary's codes of a few contexts, and those of them that are not 0 as firings."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.firings import Firings
from lmsae.kernels.entries import Entries

CODES_AT_ONCE = 1 << 24
"""Codes that are computed at a time: 64 MiB. A constant, because rounding depends on the number of tokens."""


@torch.inference_mode()
def gather_firings(
    dictionary: Dictionary,
    x: Float[Tensor, "contexts position d_in"],
    counted: Bool[Tensor, "contexts position"],
    first_slot: int,
    firings: Firings,
) -> None:
    """Append the firings at the tokens that count. `first_slot` is the slot of the first token of `x`."""
    l0 = np.zeros(counted.numel(), np.int32)
    parts: list[tuple[np.ndarray, ...]] = []
    slots = counted.flatten().nonzero().squeeze(1).cpu().numpy()
    done = 0
    for codes in _codes(dictionary, x, counted):
        entries, values = _find_nonzero(codes, signed=dictionary.sparsity.signed)
        of_token = slots[done : done + entries.tokens]
        done += entries.tokens
        counts = entries.starts.diff().cpu().numpy()
        l0[of_token] = counts
        parts.append(
            (entries.latents.cpu().numpy(), np.repeat(of_token + first_slot, counts), values.float().cpu().numpy())
        )
    latents, places, values = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else _NOTHING
    firings.append(l0, latents, places, values)


_NOTHING = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


def _codes(dictionary: Dictionary, x: Tensor, counted: Tensor) -> Iterator[Tensor]:
    """The codes of the tokens that count, (tokens, latents), some tokens at a time."""
    at_once = max(1, CODES_AT_ONCE // dictionary.geometry.latents)
    if dictionary.config.geometry.grain == "context":
        contexts = max(1, at_once // x.shape[1])
        for some, used in zip(x.split(contexts), counted.split(contexts), strict=True):
            if used.any():
                yield dictionary.encode(some)[used]
    else:
        for some in x[counted].split(at_once):
            if len(some):
                yield dictionary.encode(some)


def _find_nonzero(codes: Float[Tensor, "tokens latents"], *, signed: bool) -> tuple[Entries, Tensor]:
    """The entries at which codes are not 0, and the codes there."""
    sizes = codes.abs() if signed else codes
    entries = Entries.find_above(sizes, codes.new_zeros(codes.shape[1]))
    if entries is None:
        entries = Entries.from_mask(codes != 0)
    return entries, entries.gather(codes)
