"""The shares of own activations: each context has one, drawn by the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.errors import NotEnoughTokens
from lmsae.text.packing import TokenizeConfig
from lmsae.vectors.shares import count_shares, draw_shares


def packing(**values: int | float) -> TokenizeConfig:
    fields = {"context_size": 8, "calibration_tokens": 80, "held_out_tokens": 160, **values}
    return TokenizeConfig(prepend_bos=False, mask_special=False, **fields)  # pyright: ignore[reportArgumentType]


@given(st.integers(31, 2000), st.integers(0, 100))
def test_every_context_is_in_one_share_in_the_order_of_the_files(contexts: int, seed: int) -> None:
    settings = packing(seed=seed)
    train, held_out = draw_shares(contexts, settings)
    counts = count_shares(contexts, settings)
    assert (len(train), len(held_out)) == (counts.calibration + counts.train, counts.held_out)
    assert counts.calibration == 10
    assert counts.held_out == min(20, max(1, round(contexts / 10)))
    assert sorted([*train, *held_out]) == [*range(contexts)]
    for share in (train[:10], train[10:], held_out):
        assert (np.diff(share) > 0).all()


def test_a_limit_leaves_contexts_from_everywhere_over() -> None:
    train, _ = draw_shares(2000, packing(tokens=800))
    assert len(train) == 110
    assert train[10:].max() > 1800


def test_shares_are_drawn_alike_on_every_machine_and_otherwise_for_another_seed() -> None:
    assert draw_shares(100, packing())[1].tolist() == [0, 3, 8, 9, 19, 26, 31, 45, 51, 72]
    assert draw_shares(100, packing(seed=1))[1].tolist() != draw_shares(100, packing())[1].tolist()


def test_too_few_vectors_are_told_with_what_to_lower() -> None:
    with pytest.raises(NotEnoughTokens, match="88 vectors in 11 contexts of 8; 8 are held out and 80 are for cal"):
        count_shares(11, packing())
