"""Numbering: a token set whose ids are the numbers of vectors in files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokens import CHUNK_TOKENS, Split, TokenWriter
from lmsae.vectors.headers import MOST_VECTORS
from lmsae.vectors.shares import count_shares, draw_shares


def write_numbers(
    contexts: int,
    packing: TokenizeConfig,
    directory: Path,
    require_claim: Callable[[], None] = lambda: None,
    *,
    has_positions: bool = True,
) -> None:
    """Write `tokens.zarr` with the shares of so many contexts, whose vectors are numbered from 0 on in the order of the
    files. The document of a vector is its context's number."""
    size, shares = packing.context_size, draw_shares(contexts, packing)
    writer = TokenWriter(directory, min(contexts * size + 1, MOST_VECTORS), require_claim=require_claim)
    splits: tuple[Split, Split] = ("train", "held_out")
    for split, numbers in zip(splits, shares, strict=True):
        writer.write_split(split, len(numbers), size, _blocks(numbers, size))
    attributes = {
        "n_calibration_contexts": count_shares(contexts, packing).calibration,
        "bos_token_id": None,
        "special_token_ids": [],
        "d_vocab": contexts * size,
        "counts": {},
        "numbers_vectors": True,
        "has_positions": has_positions,
    }
    writer.write_attributes(attributes)


def _blocks(numbers: np.ndarray, size: int) -> Iterator[Sequence[np.ndarray]]:
    step = max(1, CHUNK_TOKENS // size)
    for start in range(0, len(numbers), step):
        contexts = numbers[start : start + step, None]
        yield contexts * size + np.arange(size), np.broadcast_to(contexts, (len(contexts), size))
