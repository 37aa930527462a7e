"""Batches: their parts make up the whole, and hold no part without a usable token."""

import pytest
import torch

from lmsae.training.batch import Batch


def contexts(*usable: list[int]) -> Batch:
    x = torch.randn(len(usable), len(usable[0]), 3)
    return Batch(x, x + 1, torch.tensor(usable, dtype=torch.bool), torch.arange(x[..., 0].numel()).view(x.shape[:2]))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_parts_make_up_the_whole(count: int) -> None:
    x = torch.randn(7, 3)
    parts = list(Batch(x, x + 1).split(count))
    assert len(parts) <= count
    assert torch.equal(torch.cat([part.x for part in parts]), x)
    assert torch.equal(torch.cat([part.target for part in parts]), x + 1)
    assert sum(part.tokens for part in parts) == 7


def test_one_part_is_the_batch_itself() -> None:
    x = torch.randn(7, 3)
    whole = Batch(x, x)
    assert list(whole.split(1)) == [whole]


def test_a_part_of_what_is_its_own_target_is_too() -> None:
    x = torch.randn(6, 3)
    assert all(part.target is part.x for part in Batch(x, x).split(2))
    assert Batch(x, x).to("cpu").target is Batch(x, x).to("cpu").x


def test_contexts_are_cut_between_contexts_and_parts_without_a_usable_token_left_out() -> None:
    whole = contexts([0, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1])
    parts = list(whole.split(4))
    assert [part.tokens for part in parts] == [2, 1, 3]
    assert [part.x.shape for part in parts] == [(1, 3, 3)] * 3
    assert whole.tokens == 6
    ids = [part.ids for part in parts]
    assert torch.equal(
        torch.cat([one for one in ids if one is not None]), torch.tensor([[0, 1, 2], [3, 4, 5], [9, 10, 11]])
    )


def test_a_batch_moves_with_all_that_belongs_to_it() -> None:
    moved = contexts([0, 1], [1, 1]).to("meta")
    assert {t.device.type for t in (moved.x, moved.target, moved.usable, moved.ids) if t is not None} == {"meta"}
