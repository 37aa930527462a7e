import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.errors import DamagedArtifact, NotEnoughTokens, ShapeError
from lmsae.store.batches import ShuffledBatches
from lmsae.store.order import WindowOrder
from lmsae.store.reader import StoreReader
from lmsae.store.stores import Stores

from .conftest import MakeStore

NumberedTokens = Callable[[int, int], Tensor]
CONTEXTS = 50
WINDOW = 4 * 32  # four chunks


@pytest.fixture
def usable() -> np.ndarray:
    """All tokens but the first of each context and a few more."""
    mask = np.random.default_rng(0).random((CONTEXTS, 8)) < 0.9
    mask[:, 0] = False
    return mask


@pytest.fixture
def store(make_store: MakeStore, numbered_tokens: NumberedTokens) -> Path:
    return make_store(numbered_tokens(CONTEXTS, 3))


def shuffled(paths: list[Path], usable: np.ndarray, batch_size: int = 23, **kwargs) -> ShuffledBatches:
    stores = Stores([StoreReader(path) for path in paths])
    return ShuffledBatches(stores, usable, batch_size=batch_size, seed=5, window_tokens=WINDOW, **kwargs)


def window_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lmsae-window")]


def test_batches_hold_the_tokens_of_the_order_across_windows_and_epochs(store: Path, usable: np.ndarray) -> None:
    batches = shuffled([store], usable)
    steps = 2 * batches.tokens_per_epoch // 23 + 2
    order = WindowOrder(usable, chunk_contexts=4, seed=5, window_tokens=WINDOW)
    expected = []
    for part in order.slices(0, steps * 23):
        rows = order.tokens(part.epoch, part.window)[part.start : part.stop]
        expected.append(order.chunks(part.epoch, part.window)[rows // 32] * 32 + rows % 32)
    got = list(batches.batches(0, steps))
    assert len(got) == steps
    assert all(batch.shape == (23, 3) and batch.dtype == torch.float32 for (batch,) in got)
    assert torch.equal(torch.cat([batch for (batch,) in got])[:, 0].long(), torch.from_numpy(np.concatenate(expected)))
    assert batches.waited_s > 0


def test_an_epoch_holds_every_usable_token_of_the_range_once(store: Path, usable: np.ndarray) -> None:
    batches = shuffled([store], usable, batch_size=1, first=6, last=45)
    tokens = [int(batch[0, 0]) for (batch,) in batches.batches(0, batches.tokens_per_epoch)]
    inside = np.zeros_like(usable)
    inside[6:45] = usable[6:45]
    assert sorted(tokens) == np.flatnonzero(inside).tolist()


def test_starting_at_a_step_is_the_same_as_skipping_to_it(store: Path, usable: np.ndarray) -> None:
    whole = [batch for (batch,) in shuffled([store], usable).batches(0, 40)]
    for start in (0, 1, 7, 19, 39, 40):
        rest = [batch for (batch,) in shuffled([store], usable).batches(start, 40)]
        assert len(rest) == 40 - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_what_lies_before_the_first_step_is_not_read(store: Path, usable: np.ndarray) -> None:
    order = WindowOrder(usable, chunk_contexts=4, seed=5, window_tokens=WINDOW)
    for chunk in order.chunks(0, 0):
        damage_chunk(store, int(chunk))
    with pytest.raises(DamagedArtifact):
        list(shuffled([store], usable).batches(0, 1))
    steps_of_first_window = -(-len(order.tokens(0, 0)) // 23)
    assert len(list(shuffled([store], usable).batches(steps_of_first_window, steps_of_first_window + 3))) == 3


def test_all_hook_points_are_read_at_the_same_tokens(
    make_store: MakeStore, store: Path, usable: np.ndarray, numbered_tokens: NumberedTokens
) -> None:
    other = make_store(1000 + numbered_tokens(CONTEXTS, 2), "float32", name="other")
    for first, second in shuffled([store, other], usable).batches(0, 30):
        assert first.shape == (23, 3)
        assert second.shape == (23, 2)
        assert torch.equal(first[:, :2] + 1000, second)


def test_sixteen_bit_stores_give_float32_batches(make_store: MakeStore, usable: np.ndarray) -> None:
    activations = torch.randn(CONTEXTS, 8, 3)
    full, half = (
        torch.cat([b for (b,) in shuffled([make_store(activations, dtype)], usable).batches(0, 9)])
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32
    assert torch.equal(full.bfloat16().float(), half)


def test_int8_stores_give_the_batches_of_what_they_hold(make_store: MakeStore, usable: np.ndarray) -> None:
    """Read whole and read in shuffled batches, by tokens and by contexts."""
    path = make_store(torch.randn(CONTEXTS, 8, 3), "int8")
    held = make_store(StoreReader(path).read(0, CONTEXTS), "float32", name="held")
    for whole_contexts in (False, True):
        ours, wanted = (list(shuffled([p], usable, whole_contexts=whole_contexts).batches(0, 9)) for p in (path, held))
        for got, expected in zip(ours, wanted, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_damage_met_in_the_background_reaches_the_consumer_and_ends_the_threads(
    store: Path, usable: np.ndarray
) -> None:
    order = WindowOrder(usable, chunk_contexts=4, seed=5, window_tokens=WINDOW)
    damage_chunk(store, int(order.chunks(0, 1)[0]))
    batches = shuffled([store], usable).batches(0, 30)
    next(batches)
    with pytest.raises(DamagedArtifact, match=r"chunk \d"):
        list(batches)
    assert not window_threads()


def test_the_window_behind_is_announced_while_one_is_read(
    store: Path, usable: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the first two is read no sooner than the next one has been announced."""
    announced: list[list[int]] = []
    read: list[list[int]] = []
    changed = threading.Condition()
    own_announce, own_read = StoreReader.announce, StoreReader.read_chunks

    def announce(self: StoreReader, chunks: np.ndarray) -> None:
        own_announce(self, chunks)
        with changed:
            announced.append(chunks.tolist())
            changed.notify_all()

    def read_chunks(self: StoreReader, chunks: np.ndarray, out: Tensor) -> None:
        with changed:
            read.append(chunks.tolist())
            assert changed.wait_for(lambda: len(announced) >= min(len(read) + 1, 3), timeout=20)
        own_read(self, chunks, out)

    monkeypatch.setattr(StoreReader, "announce", announce)
    monkeypatch.setattr(StoreReader, "read_chunks", read_chunks)
    order = WindowOrder(usable, chunk_contexts=4, seed=5, window_tokens=WINDOW)
    windows = [order.chunks(0, window).tolist() for window in range(3)]
    batches = shuffled([store], usable)
    upto = len(order.tokens(0, 0)) + len(order.tokens(0, 1)) + 1
    list(batches.batches(0, -(-upto // 23)))
    assert announced == read == windows


def test_what_is_wrong_with_a_window_is_said_when_it_is_due(store: Path, usable: np.ndarray) -> None:
    """Though it was announced long before."""
    order = WindowOrder(usable, chunk_contexts=4, seed=5, window_tokens=WINDOW)
    first, second = (set((order.chunks(0, window) // 3).tolist()) for window in (0, 1))
    for shard in second - first:
        (store / f"c/{shard}/0/0").unlink()
    assert second - first
    steps = len(order.tokens(0, 0)) // 23
    batches = shuffled([store], usable).batches(0, steps + 2)
    assert len([next(batches) for _ in range(steps)]) == steps
    with pytest.raises(DamagedArtifact, match="the file is missing"):
        next(batches)
    assert not window_threads()


def test_closing_the_iterator_ends_the_threads(store: Path, usable: np.ndarray) -> None:
    batches = shuffled([store], usable).batches(0, 30)
    next(batches)
    assert window_threads()
    batches.close()
    assert not window_threads()


def test_closing_the_iterator_says_that_no_more_is_wanted(store: Path, usable: np.ndarray) -> None:
    told: list[bool] = []

    class Slow(Stores):
        def load(self, chunks: np.ndarray, buffers: Sequence[Tensor], is_wanted: Callable[[], bool]) -> None:
            super().load(chunks, buffers, is_wanted)
            first, patience = not told, time.monotonic() + 20
            while not first and is_wanted() and time.monotonic() < patience:
                time.sleep(0.01)
            told.append(is_wanted())

    source = Slow([StoreReader(store)])
    batches = ShuffledBatches(source, usable, batch_size=23, seed=5, window_tokens=WINDOW).batches(0, 30)
    next(batches)
    batches.close()
    assert told == [True, False]


def test_stores_of_other_tokens_are_refused(store: Path, make_store: MakeStore, usable: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="50 contexts of 8 tokens do not go with a mask of 49"):
        shuffled([store], usable[:-1])
    other = make_store(torch.zeros(CONTEXTS, 4, 3), name="other")
    with pytest.raises(ShapeError, match="50 contexts of 4"):
        shuffled([store, other], usable)


@pytest.fixture
def sparse(usable: np.ndarray) -> np.ndarray:
    """Some contexts hold no usable token at all."""
    usable[[3, 17, 18, 49]] = False
    return usable


def in_contexts(paths: list[Path], usable: np.ndarray, batch_size: int = 16, **kwargs) -> ShuffledBatches:
    return shuffled(paths, usable, batch_size, whole_contexts=True, **kwargs)


def test_whole_contexts_come_once_an_epoch_unless_none_of_their_tokens_is_usable(
    store: Path, sparse: np.ndarray
) -> None:
    batches = in_contexts([store], sparse, batch_size=8, first=2, last=47)
    wanted = [number for number in range(2, 47) if sparse[number].any()]
    assert batches.tokens_per_epoch == 8 * len(wanted)
    numbers = [int(number) for _, (number,) in batches.batches(0, 3 * len(wanted))]
    epochs = [numbers[epoch * len(wanted) :][: len(wanted)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [wanted] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != wanted


def test_a_batch_of_whole_contexts_holds_all_their_tokens_in_order_and_says_which_they_are(
    make_store: MakeStore, store: Path, sparse: np.ndarray, numbered_tokens: NumberedTokens
) -> None:
    """Batches of five contexts, which cross windows and epochs, of two stores of different widths."""
    other = make_store(1000 + numbered_tokens(CONTEXTS, 2), "float32", name="other")
    batches = list(in_contexts([store, other], sparse, batch_size=47).batches(0, 30))
    assert len(batches) == 30
    tokens = torch.arange(8)
    for first, second, numbers in batches:
        assert (first.shape, second.shape, numbers.shape) == ((5, 8, 3), (5, 8, 2), (5,))
        assert torch.equal(first[..., 0].long(), numbers[:, None] * 8 + tokens)
        assert torch.equal(first[..., :2] + 1000, second)
        assert first.dtype == second.dtype == torch.float32


def test_whole_contexts_from_a_step_on_are_the_same_as_skipping_to_it(store: Path, sparse: np.ndarray) -> None:
    whole = list(in_contexts([store], sparse).batches(0, 60))
    for start in (0, 1, 22, 23, 24, 59, 60):
        rest = list(in_contexts([store], sparse).batches(start, 60))
        assert len(rest) == 60 - start
        for again, before in zip(rest, whole[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(again, before, strict=True))


def test_batches_of_whole_contexts_outlive_the_next(store: Path, usable: np.ndarray) -> None:
    batches = list(in_contexts([store], usable).batches(0, 20))
    assert len({tuple(numbers.tolist()) for _, numbers in batches}) == 20


def test_a_batch_that_holds_no_whole_context_is_refused(store: Path, usable: np.ndarray) -> None:
    in_contexts([store], usable, batch_size=8)
    with pytest.raises(NotEnoughTokens, match=r"a batch of 7 tokens holds no whole context of 8.*train\.batch_size"):
        in_contexts([store], usable, batch_size=7)


def damage_chunk(path: Path, chunk: int) -> None:
    """Overwrite the beginning of a chunk of a store with three float32 values a token."""
    with (path / f"c/{chunk // 3}/0/0").open("r+b") as shard:
        shard.seek(chunk % 3 * (32 * 3 * 4 + 4))
        shard.write(b"\xff\xff")
