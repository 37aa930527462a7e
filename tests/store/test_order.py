import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsae.errors import NotEnoughTokens
from lmsae.kernels.cpu import argsort_words
from lmsae.store.order import WindowOrder


def tokens(order: WindowOrder, begin: int, end: int, chunk_tokens: int) -> np.ndarray:
    """The token numbers at positions begin to end of the endless order."""
    found = [np.empty(0, dtype=np.int64)]
    for part in order.slices(begin, end):
        rows = order.tokens(part.epoch, part.window)[part.start : part.stop]
        chunks = order.chunks(part.epoch, part.window)
        found.append(chunks[rows // chunk_tokens] * chunk_tokens + rows % chunk_tokens)
    return np.concatenate(found)


@st.composite
def orders(draw: st.DrawFn) -> tuple[WindowOrder, np.ndarray, int]:
    """An order, the token numbers that it may use, and the tokens in a chunk."""
    contexts, size, chunk_contexts = draw(st.integers(1, 30)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    first = draw(st.integers(0, contexts - 1))
    last = draw(st.integers(first + 1, contexts))
    usable = np.random.default_rng(draw(st.integers(0, 99))).random((contexts, size)) < draw(
        st.sampled_from([0.1, 0.8, 1])
    )
    usable[draw(st.integers(first, last - 1)), 0] = True
    order = WindowOrder(
        usable,
        chunk_contexts=chunk_contexts,
        seed=draw(st.integers(0, 2**40)),
        first=first,
        last=last,
        window_tokens=draw(st.integers(1, 60)),
    )
    inside = np.zeros_like(usable)
    inside[first:last] = usable[first:last]
    return order, np.flatnonzero(inside), chunk_contexts * size


@given(orders())
@settings(deadline=None)
def test_every_usable_token_comes_exactly_once_an_epoch_and_no_other(case: tuple[WindowOrder, np.ndarray, int]) -> None:
    order, usable, chunk_tokens = case
    count = order.tokens_per_epoch
    assert count == len(usable)
    for epoch in range(3):
        epoch_tokens = tokens(order, epoch * count, (epoch + 1) * count, chunk_tokens)
        assert np.array_equal(np.sort(epoch_tokens), usable)


@given(orders(), st.data())
@settings(deadline=None)
def test_any_stretch_is_the_same_as_cut_from_the_whole(
    case: tuple[WindowOrder, np.ndarray, int], data: st.DataObject
) -> None:
    order, usable, chunk_tokens = case
    whole = tokens(order, 0, 3 * len(usable), chunk_tokens)
    begin = data.draw(st.integers(0, 3 * len(usable)))
    end = data.draw(st.integers(begin, 3 * len(usable)))
    assert np.array_equal(tokens(order, begin, end, chunk_tokens), whole[begin:end])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    usable = np.ones((64, 8), dtype=bool)
    first, second = (WindowOrder(usable, chunk_contexts=4, seed=seed, window_tokens=128) for seed in (0, 1))
    epochs = [tokens(first, epoch * 512, (epoch + 1) * 512, 32) for epoch in range(2)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], tokens(second, 0, 512, 32))
    assert not np.array_equal(first.tokens(0, 0), first.tokens(0, 1))


def test_the_chunks_of_a_window_ascend() -> None:
    order = WindowOrder(np.ones((64, 8), dtype=bool), chunk_contexts=4, seed=0, window_tokens=128)
    assert all((np.diff(order.chunks(0, window)) > 0).all() for window in range(4))


def test_the_order_is_the_same_on_every_machine_for_ever() -> None:
    order = WindowOrder(np.ones((8, 4), dtype=bool), chunk_contexts=2, seed=7, window_tokens=16)
    assert tokens(order, 28, 36, 8).tolist() == [12, 11, 13, 14, 31, 30, 6, 27]


def test_a_mask_without_usable_tokens_is_refused() -> None:
    usable = np.ones((10, 4), dtype=bool)
    usable[3:6] = False
    with pytest.raises(NotEnoughTokens, match="contexts 3 to 6"):
        WindowOrder(usable, chunk_contexts=2, seed=0, first=3, last=6)


def mixing(values: np.ndarray, batch: int) -> float:
    """Variance of batch means relative to what independent draws would give; 1 is a perfect shuffle."""
    return float(values.reshape(-1, batch).mean(axis=1).var() * batch / values.var())


def test_windows_mix_autocorrelated_activations_nearly_as_well_as_an_ideal_shuffle() -> None:
    rng = np.random.default_rng(0)
    documents = np.repeat(rng.normal(size=2048), 128)  # each document has a mean of its own
    values = documents + rng.normal(size=len(documents))
    usable = np.ones((2048, 128), dtype=bool)
    order = WindowOrder(usable, chunk_contexts=1, seed=0, window_tokens=1024 * 128)
    shuffled = values[tokens(order, 0, len(values), 128)]
    assert mixing(values, 128) > 50
    assert mixing(rng.permutation(values), 128) == pytest.approx(1, abs=0.1)
    # A window's mean varies as that of 1,024 documents: that adds 128/1024 of the documents' half of the variance.
    assert mixing(shuffled, 128) == pytest.approx(1, abs=0.1)


@given(words=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=40))
def test_words_are_sorted_and_equal_ones_keep_their_places(words: list[int]) -> None:
    found = argsort_words(np.array(words, dtype=np.uint64))
    assert found.dtype == np.int64
    assert found.tolist() == sorted(range(len(words)), key=words.__getitem__)


def test_many_random_words_are_sorted() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 300_000, dtype=np.uint64)
    np.testing.assert_array_equal(argsort_words(words), np.argsort(words, kind="stable"))
