"""A start from a finished dictionary: its weights, thresholds and normalizers, as they are."""

import itertools

import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError
from lmsae.initialization.blocks_of_latents import blocks_of

UNIT = 1e-4
"""Rows of norm 1, as training keeps them, are off by less than this."""


@torch.no_grad()
def take_over(dictionary: Dictionary, source: Dictionary, *, unit_norm_decoder: bool) -> None:
    """Make a dictionary start as `source`: the same weights, thresholds and normalizers, bit for bit.

    If it has more latents, the first of each block are those of `source`: the first of all or, in a cross-layer
    transcoder, of each layer, in a lorsa of each QK head, in a molt of each rank. The others stay as they are. Raises
    FolderError if decoder rows are to be kept at norm 1 and have another.
    """
    if unit_norm_decoder:
        _require_unit_rows(source)
    old, new = (blocks_of(one.config) for one in (source, dictionary))
    begins = itertools.accumulate([0, *new[:-1]])
    places = torch.cat([torch.arange(begin, begin + size) for begin, size in zip(begins, old, strict=True)])
    mine = dictionary.state_dict()
    for name, theirs in source.state_dict().items():
        target = mine[name]
        theirs = theirs.to(target)
        wider = [d for d, sizes in enumerate(zip(theirs.shape, target.shape, strict=True)) if sizes[0] != sizes[1]]
        if not wider:
            target.copy_(theirs)
            continue
        (dim,) = wider  # latents stand along one dimension of every weight
        of_all = (theirs.shape[dim], target.shape[dim]) == (sum(old), sum(new))
        index = places if of_all else torch.arange(theirs.shape[dim])
        target.index_copy_(dim, index.to(target.device), theirs)


def take_over_units(dictionary: Dictionary, source: Dictionary) -> None:
    """Give a dictionary the normalizers of `source`."""
    dictionary.read.load_state_dict(source.read.state_dict())
    dictionary.write.load_state_dict(source.write.state_dict())


def _require_unit_rows(source: Dictionary) -> None:
    off = (source.geometry.norms() - 1).abs().max().item()
    if off > UNIT:
        raise FolderError(
            "the dictionary of init.from has decoder rows of other norms than 1, which training would change at its "
            f"first step (by up to {off:.3g}), for sae.unit_norm_decoder is true; set that to false."
        )
