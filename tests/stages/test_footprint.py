"""The memory that training and features take, by hand; benchmarks/memory.py holds the formula against processes."""

from typing import Any

import pytest

from lmsae.stages.footprint import DictionarySize, describing_bytes, training_bytes

SMALL = DictionarySize(parameters=2 * 256 * 2048, latents=2048)
CASE: dict[str, Any] = {
    "window_tokens": 65_536,
    "token_bytes": 512,
    "batch_size": 2048,
    "width": 256,
    "dictionaries": [SMALL],
    "dataset_tokens": 10**6,
}


def grown(**changes: Any) -> int:
    return training_bytes(**CASE | changes) - training_bytes(**CASE)


def test_a_case_by_hand() -> None:
    windows = 2 * 65_536 * 512 + 65_536 * 49
    weights_and_moments, gradient = 3 * 4 * 2 * 256 * 2048, 2 * 4 * 2 * 256 * 2048
    step = 2048 * (3 * 4 * 2048 + 6 * 4 * 256)
    assert training_bytes(**CASE) == windows + weights_and_moments + gradient + step + 50_000


def test_the_dataset_hardly_enters() -> None:
    assert grown(dataset_tokens=10**9 + 10**6) == 50_000_000  # of half a terabyte at this width


def test_another_dictionary_costs_its_weights_and_moments() -> None:
    assert grown(dictionaries=[SMALL, SMALL]) == 12 * SMALL.parameters


def test_a_window_is_held_twice_as_it_is_stored() -> None:
    assert grown(window_tokens=2 * 65_536) == 65_536 * (2 * 512 + 49)
    assert grown(token_bytes=260) == -2 * 65_536 * 252


@pytest.mark.parametrize("selects", [False, True])
def test_codes_grow_with_batch_and_latents(selects: bool) -> None:
    one, two = (DictionarySize(SMALL.parameters, latents, selects) for latents in (2048, 4096))
    arrays = 5.5 if selects else 3
    assert grown(dictionaries=[two]) - grown(dictionaries=[one]) == 2048 * 2048 * 4 * arrays


def test_features_by_hand() -> None:
    """Few tokens: codes are the most. Many: firings are, up to a bound; then only tokens and weights grow."""
    few = describing_bytes(tokens=1000, dictionaries=[SMALL])
    assert few == 2 * 4 * SMALL.parameters + 12 * 4 * 2**24 + 2**27 + 2**24 + 40 * 1000
    assert describing_bytes(tokens=10**6, dictionaries=[SMALL]) - few == 40 * (10**6 - 1000)
    small = DictionarySize(parameters=1, latents=64)
    assert describing_bytes(tokens=10**6, dictionaries=[small]) == 8 + 2**29 + 2**27 + 2**24 + 40 * 10**6
    assert describing_bytes(tokens=1000, dictionaries=[SMALL, SMALL]) - few == 4 * SMALL.parameters + 2**24


def test_features_reckon_with_the_batches_that_they_compute() -> None:
    from lmsae.interpretation.gathering import CODES_AT_ONCE
    from lmsae.stages import footprint
    from lmsae.stages.inputs.passages import READ_TOKENS

    assert (footprint.CODES_AT_ONCE, footprint.TOKENS_AT_ONCE) == (CODES_AT_ONCE, READ_TOKENS)
