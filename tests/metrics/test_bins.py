"""Bins of tokens: by position, and by how often an id occurs."""

import numpy as np
import pytest
import torch

from lmsae.metrics.bins import RATE_BINS, members_of, position_bins, rate_bins


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [(1, (0,), (0,)), (2, (0, 1), (0, 1)), (10, (0, 1, 2, 4, 8), (0, 1, 3, 7, 9)), (4, (0, 1, 2), (0, 1, 3))],
)
def test_bins_of_positions_double(size: int, low: tuple[int, ...], high: tuple[int, ...]) -> None:
    bins = position_bins(size)
    assert (bins.low, bins.high) == (low, high)
    for position, number in enumerate(bins.of(torch.zeros(1, size, dtype=torch.long))[0].tolist()):
        assert low[number] <= position <= high[number]


def test_each_bin_of_ids_has_about_the_same_share_of_the_text() -> None:
    counts = np.random.default_rng(0).permutation(100_000 // np.arange(10, 4000))  # as Zipf's law has it
    bins = rate_bins(counts)
    shares = np.bincount(bins.numbers.numpy(), weights=counts) / counts.sum()
    assert len(bins) == RATE_BINS
    assert shares == pytest.approx(1 / RATE_BINS, abs=0.4 / RATE_BINS)
    rates, numbers = counts / counts.sum(), bins.numbers.numpy()
    for number in range(RATE_BINS):
        assert (bins.low[number], bins.high[number]) == (rates[numbers == number].min(), rates[numbers == number].max())
    assert all(high < low for high, low in zip(bins.high, bins.low[1:], strict=False))


def test_ids_that_occur_equally_often_are_in_one_bin_and_those_that_never_do_in_the_first() -> None:
    bins = rate_bins(np.array([0, 5, 5, 90, 0]))
    assert bins.numbers.tolist() == [0, 0, 0, 0, 0], "the rarer ids have less than an eighth of the text"
    bins = rate_bins(np.array([0, 20, 20, 60]))
    assert bins.numbers.tolist() == [0, 0, 0, 1]
    assert (bins.low, bins.high) == ((0.0, 0.6), (0.2, 0.6))
    assert rate_bins(np.zeros(3, dtype=int)).numbers.tolist() == [0, 0, 0], "no text at all"


def test_a_token_is_in_the_bin_of_all_and_in_one_of_each_kind_if_it_counts() -> None:
    ids, counted = torch.tensor([[2, 0, 1]]), torch.tensor([[True, True, False]])
    members = members_of([position_bins(3), rate_bins(np.array([0, 20, 60]))], ids, counted)
    assert members[0].tolist() == [[1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0], [0] * 6]
