"""The attention of a lorsa at the peaks of its latents: the positions that their values come from."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.lorsa import Lorsa
from lmsae.interpretation.pieces import Sources
from lmsae.kernels.cpu.tallies import NOBODY

SOURCES = 8
"""Positions that are kept of each pattern."""


@torch.inference_mode()
def find_sources(
    dictionary: Dictionary, slots: np.ndarray, context_size: int, contexts: Iterable[tuple[int, Tensor]]
) -> Sources:
    """The positions that the peaks of a lorsa attend to most.

    `slots` (latents, most) are those of the peaks, with NOBODY where there is none. `contexts` are those that hold any,
    by number, with their raw activations (context_size, d_in).
    """
    geometry = dictionary.geometry
    assert isinstance(geometry, Lorsa)
    positions = np.full((*slots.shape, SOURCES), NOBODY, np.int64)
    weights = np.zeros(positions.shape, np.float32)
    latents, ranks = np.nonzero(slots != NOBODY)
    order = np.argsort(slots[latents, ranks], kind="stable")
    latents, ranks = latents[order], ranks[order]
    of_context, at = np.divmod(slots[latents, ranks], context_size)
    for context, x in contexts:
        first, last = np.searchsorted(of_context, [context, context + 1])
        mine, places = latents[first:last], at[first:last]
        rows = geometry.attend(dictionary.read(x), torch.from_numpy(mine), torch.from_numpy(places))
        found = rows.topk(min(SOURCES, rows.shape[1]), dim=1)
        width = found.values.shape[1]
        # Behind the peak there is nothing to attend to.
        seen = found.indices.cpu().numpy() <= places[:, None]
        where = mine, ranks[first:last], slice(0, width)
        positions[where] = np.where(seen, found.indices.cpu().numpy(), NOBODY)
        weights[where] = found.values.float().cpu().numpy()
    return Sources(positions, weights)


def contexts_of(slots: np.ndarray, context_size: int) -> np.ndarray:
    """The contexts that hold any of these slots, ascending."""
    return np.unique(slots[slots != NOBODY] // context_size)
