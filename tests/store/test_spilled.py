from pathlib import Path

import numpy as np
import pytest

from lmsae.store.order import WindowOrder, blocks_of
from lmsae.store.spilled import SpilledArray


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, (50, 7), dtype=np.uint16)


def test_any_rows_are_those_of_the_array(array: np.ndarray, tmp_path: Path) -> None:
    spilled = SpilledArray((array[start : start + 8] for start in range(0, 50, 8)), tmp_path)
    assert (spilled.shape, spilled.dtype, len(spilled)) == ((50, 7), np.uint16, 50)
    for rows in (slice(None), slice(3, 9), slice(48, 99), slice(9, 3), slice(50, 60)):
        assert np.array_equal(spilled[rows], array[rows])
    for numbers in ([], [4], [4, 5, 6, 20, 49, 0], [7, 7, 8, 8, 7], [49, 48, 0, 1]):
        rows = np.array(numbers, dtype=np.int64)
        assert np.array_equal(spilled[rows], array[rows])


def test_nothing_is_left_on_disk(array: np.ndarray, tmp_path: Path) -> None:
    spilled = SpilledArray(iter([array]), tmp_path)
    assert len(spilled[0:50]) == 50
    assert not list(tmp_path.iterdir())


def test_blocks_are_all_of_it_some_at_a_time(array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.store.order.BLOCK_TOKENS", 21)
    for first, last in ((0, 50), (2, 3), (7, 49), (5, 5)):
        found = list(blocks_of(array, first, last))
        assert max(len(block) for block in found) <= 3
        assert np.array_equal(np.concatenate(found), array[first:last])


def test_an_order_is_that_of_the_mask_in_memory(tmp_path: Path) -> None:
    usable = np.random.default_rng(1).random((50, 7)) < 0.7
    spilled = SpilledArray(iter([usable]), tmp_path)
    orders = [
        WindowOrder(mask, chunk_contexts=4, seed=3, first=6, last=47, window_tokens=60) for mask in (usable, spilled)
    ]
    assert orders[0].tokens_per_epoch == orders[1].tokens_per_epoch
    for window in range(5):
        assert np.array_equal(orders[0].tokens(1, window), orders[1].tokens(1, window))
