"""The largest among several processes are those that one process chooses, equal values among them."""

import pytest
import torch
from torch import Tensor

from lmsae.sparsity.config import BatchTopKConfig, TopKConfig
from lmsae.sparsity.topk import BatchTopK, TopK
from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_topk import ShardedBatchTopK, ShardedTopK
from tests.training.processes_of_a_test import in_processes

TOKENS, LATENTS = 500, 601
"""So many that one process chooses over a batch by its own kernel, which takes the first of equal values."""


def draw(levels: int) -> Tensor:
    """(tokens, latents): normal numbers of few different values."""
    values = torch.randn(TOKENS, LATENTS, generator=torch.Generator().manual_seed(levels))
    return (values * levels).round() / levels


def chosen_in(count: int, pre: Tensor, k: int, kind: str) -> Tensor:
    """The mask (tokens, latents) of the entries above 0 that several processes choose."""

    def work(processes: Processes) -> Tensor:
        own = pre[:, processes.latents(LATENTS)].contiguous()
        if kind == "topk":
            entries = ShardedTopK(TopKConfig(k=k), LATENTS, processes).select_entries(own, k)
        else:
            entries = ShardedBatchTopK(BatchTopKConfig(k=k), LATENTS, processes).select_entries(own, k)
        values = entries.gather(own)
        assert torch.equal(values, own[entries.token_index, entries.latents])
        return entries.to_dense(values) > 0

    return torch.cat(in_processes(count, work), dim=1)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_one_process_may_have_nearly_all_of_the_largest(kind: str) -> None:
    pre = draw(8)
    pre[:, 450:] += 5  # the last of four processes
    pre[7, :100] += 5
    wanted = torch.zeros_like(pre, dtype=torch.bool)
    if kind == "topk":
        entries = TopK(TopKConfig(k=40), LATENTS, 1).select_entries(pre, 40)
        wanted[entries.token_index, entries.latents] = True
    else:
        wanted.view(-1)[pre.flatten().sort(descending=True, stable=True).indices[: 40 * TOKENS]] = True
    assert torch.equal(chosen_in(4, pre, 40, kind), wanted)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
@pytest.mark.parametrize(
    ("levels", "k", "count"), [(100_000, 8, 2), (2, 8, 2), (8, 32, 4), (1, 200, 2), (4, LATENTS, 2)]
)
def test_the_chosen_are_those_of_one_process(kind: str, levels: int, k: int, count: int) -> None:
    pre = draw(levels)
    one = TopK(TopKConfig(k=k), LATENTS, 1) if kind == "topk" else BatchTopK(BatchTopKConfig(k=k), LATENTS, 1)
    entries = one.select_entries(pre, k)
    wanted = entries.to_dense(entries.gather(pre)) > 0
    if kind == "batchtopk":
        first = torch.zeros(pre.numel(), dtype=torch.bool)
        first[pre.flatten().sort(descending=True, stable=True).indices[: k * TOKENS]] = True
        # Of so few values that a sample tells no floor, torch chooses in one process, and does not say which.
        assert levels == 2 or torch.equal(wanted, first.view_as(pre) & (pre > 0))
        wanted = first.view_as(pre) & (pre > 0)
    assert torch.equal(chosen_in(count, pre, k, kind), wanted)


def test_what_is_not_a_number_is_chosen_so_that_it_is_seen() -> None:
    pre = draw(8)
    pre[3, 7] = torch.nan

    def work(processes: Processes) -> bool:
        own = pre[:, processes.latents(LATENTS)].contiguous()
        entries = ShardedTopK(TopKConfig(k=8), LATENTS, processes).select_entries(own, 8)
        return bool(entries.gather(own).isnan().any())

    assert in_processes(2, work) == [True, False]
