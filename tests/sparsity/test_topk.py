"""TopK and BatchTopK: exactly the largest, whatever the input; and the threshold they learn."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from lmsae import sparsity
from lmsae.sparsity import selection, topk
from lmsae.sparsity.config import BatchTopKConfig, TopKConfig

FLOATS = st.floats(-4, 4, width=32)
PRES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOATS | st.just(0.5))


def build(config: TopKConfig | BatchTopKConfig, d_sae: int) -> Any:
    return sparsity.build(config, d_sae)


def batchtopk(k: int, d_sae: int) -> Any:
    return build(BatchTopKConfig(k=k), d_sae)


def require_largest(values: Tensor, count: int) -> None:
    """`find_largest` must choose distinct places, and the values there must be the `count` largest."""
    chosen = topk.find_largest(values, count)
    assert len(chosen.unique()) == len(chosen) == count
    expected = np.sort(values.numpy())[::-1][:count]
    np.testing.assert_array_equal(np.sort(values[chosen].numpy())[::-1], expected)


HUGE = 4 * topk.SAMPLE + 4097
RANDOM = torch.randn(HUGE, generator=torch.Generator().manual_seed(0)).relu()
SPIKES = torch.zeros(HUGE)
SPIKES[: HUGE : (HUGE // topk.SAMPLE)] = 1.0


@pytest.mark.parametrize("count", [1, 300, 20_000, HUGE // 2, HUGE])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RANDOM, id="random"),
        pytest.param(torch.zeros(HUGE), id="all zeros"),
        pytest.param(torch.full((HUGE,), 2.0), id="all equal"),
        pytest.param(RANDOM.sort().values, id="ascending"),
        pytest.param(RANDOM.sort(descending=True).values, id="descending"),
        pytest.param(RANDOM * (torch.arange(HUGE) < 500), id="few positive"),
        pytest.param((RANDOM * 2).round(), id="ties"),
        pytest.param(SPIKES, id="only what is sampled"),
        pytest.param(1 - SPIKES, id="only what is not sampled"),
    ],
)
def test_the_largest_of_very_many_are_chosen_exactly(values: Tensor, count: int) -> None:
    require_largest(values, count)


@given(data=st.data(), few=st.integers(1, 40))
def test_the_largest_of_any_values_are_chosen_exactly(data: st.DataObject, few: int) -> None:
    # A sample of a few values, so that small inputs take the way of the huge ones.
    values = data.draw(hnp.arrays(np.float32, st.integers(4 * few + 1, 400), elements=FLOATS | st.just(0.0)))
    count = data.draw(st.integers(1, len(values)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "SAMPLE", few)
        require_largest(torch.from_numpy(values).relu(), count)


@given(pre=PRES, k=st.integers(1, 9))
def test_topk_keeps_the_k_largest_positive_of_each_token(pre: np.ndarray, k: int) -> None:
    k = min(k, pre.shape[1])
    codes = sparsity.build(TopKConfig(k=k), pre.shape[1])(torch.from_numpy(pre)).numpy()
    positive = np.maximum(pre, 0)
    assert ((codes == positive) | (codes == 0)).all()
    np.testing.assert_array_equal(np.sort(codes, 1)[:, ::-1][:, :k], np.sort(positive, 1)[:, ::-1][:, :k])
    assert ((codes != 0).sum(1) <= k).all()


@given(pre=PRES, k=st.integers(1, 9))
def test_batchtopk_keeps_the_kb_largest_positive_of_the_batch(pre: np.ndarray, k: int) -> None:
    k = min(k, pre.shape[1])
    codes = batchtopk(k, pre.shape[1])(torch.from_numpy(pre)).numpy()
    positive = np.maximum(pre, 0)
    assert ((codes == positive) | (codes == 0)).all()
    count = k * len(pre)
    np.testing.assert_array_equal(np.sort(codes.ravel())[::-1][:count], np.sort(positive.ravel())[::-1][:count])
    assert (codes != 0).sum() <= count


@pytest.mark.parametrize(
    ("config", "expected"),
    [(TopKConfig(k=2), [[0, 1, 0, 3], [4, 0, 0, 7]]), (BatchTopKConfig(k=1), [[0, 0, 0, 3], [0, 0, 0, 7]])],
)
def test_gradients_reach_what_was_kept_and_nothing_else(
    config: TopKConfig | BatchTopKConfig, expected: list[list[float]]
) -> None:
    pre = torch.tensor([[-1.0, 1.0, -1.0, 2.0], [0.5, -2.0, -3.0, 4.0]], requires_grad=True)
    codes = sparsity.build(config, 4)(pre)
    (codes * torch.arange(8.0).view(2, 4)).sum().backward()
    assert pre.grad is not None
    assert pre.grad.tolist() == expected


def test_batchtopk_spends_its_budget_where_the_batch_needs_it() -> None:
    pre = torch.tensor([[3.0, 2.5, 2.0, -1.0], [1.0, 0.5, 0.2, 0.1]])
    assert batchtopk(2, 4)(pre).tolist() == [[3.0, 2.5, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_in_evaluation_a_token_of_batchtopk_does_not_see_its_batch_mates() -> None:
    generator = torch.Generator().manual_seed(0)
    act_fn = batchtopk(3, 16)
    act_fn.observe(act_fn(torch.randn(64, 16, generator=generator)))
    act_fn.eval()
    pre = torch.randn(8, 16, generator=generator)
    alone = torch.cat([act_fn(token) for token in pre.split(1)])
    assert torch.equal(act_fn(pre), alone)
    assert torch.equal(act_fn(torch.cat([pre, 100 * pre]))[:8], alone)


def test_in_evaluation_batchtopk_fires_above_the_learned_threshold() -> None:
    act_fn = batchtopk(1, 3)
    act_fn.observe(torch.tensor([[2.0, 0.0, 5.0]]))
    act_fn.eval()
    pre = torch.tensor([[1.9, 2.1, -3.0]])
    assert torch.equal(act_fn(pre), pre * torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("config", [TopKConfig(k=2), BatchTopKConfig(k=2)])
def test_the_threshold_is_a_bias_corrected_running_mean(config: TopKConfig | BatchTopKConfig) -> None:
    act_fn = build(config, 3)
    smallest = [0.7, 0.2, 0.9]
    weighted, weights = 0.0, 0.0
    assert act_fn.threshold.tolist() == [0, 0, 0]
    for value in smallest:
        act_fn.observe(torch.tensor([[0.0, value, 3.0], [1.0, 0.0, 4.0]]))
        weighted, weights = 0.99 * weighted + 0.01 * value, 0.99 * weights + 0.01
        assert act_fn.threshold.tolist() == pytest.approx([weighted / weights] * 3, rel=1e-6)
    by_hand = (0.7 * 0.99**2 + 0.2 * 0.99 + 0.9) / (1 + 0.99 + 0.99**2)
    assert act_fn.threshold.tolist() == pytest.approx([by_hand] * 3, rel=1e-6)


def test_the_first_batch_alone_sets_the_threshold() -> None:
    act_fn = batchtopk(2, 3)
    act_fn.observe(torch.tensor([[0.0, 0.4, 3.0]]))
    assert act_fn.threshold.tolist() == pytest.approx([0.4] * 3)


def test_a_batch_without_any_code_leaves_the_threshold_alone() -> None:
    act_fn = batchtopk(2, 3)
    act_fn.observe(torch.tensor([[0.0, 0.4, 3.0]]))
    act_fn.observe(torch.zeros(2, 3))
    assert act_fn.threshold.tolist() == pytest.approx([0.4] * 3)


def test_a_threshold_survives_a_cast_of_the_module() -> None:
    act_fn = batchtopk(2, 3)
    assert act_fn.to(torch.bfloat16).threshold.tolist() == [0, 0, 0]
    act_fn.observe(torch.tensor([[0.0, 0.5, 3.0]]))
    assert act_fn.threshold.tolist() == [0.5] * 3


def test_a_batch_of_one_token_is_topk() -> None:
    for token in torch.randn(8, 1, 12, generator=torch.Generator().manual_seed(0)):
        assert torch.equal(batchtopk(3, 12)(token), build(TopKConfig(k=3), 12)(token))


@given(pre=PRES)
def test_with_all_latents_allowed_both_are_relu(pre: np.ndarray) -> None:
    latents = pre.shape[1]
    for config in (TopKConfig(k=latents), BatchTopKConfig(k=latents)):
        codes = build(config, latents)(torch.from_numpy(pre))
        assert torch.equal(codes, torch.from_numpy(pre).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("width", "k", "groups"), [(512, 8, 1), (512, 8, 2), (509, 8, 1), (64, 60, 1), (8, 20, 1)])
def test_the_k_largest_of_each_token_are_chosen_exactly(dtype: torch.dtype, width: int, k: int, groups: int) -> None:
    random = torch.randn(9, width * groups, generator=torch.Generator().manual_seed(0))
    few = torch.full((width * groups,), -torch.inf)
    few[3] = 1.0
    special = [torch.zeros_like(few), -torch.ones_like(few), few, random[0].sort().values, (random[0] * 2).round()]
    values = torch.cat([random, torch.stack(special)]).to(dtype)
    chosen = selection.choose_largest(values, k, groups).unflatten(-1, (groups, -1))
    assert chosen.shape[-1] == min(k, width)
    for group in range(groups):
        assert ((chosen[:, group] >= group * width) & (chosen[:, group] < (group + 1) * width)).all()
    expected = np.sort(values.double().numpy().reshape(len(values), groups, width))[..., -min(k, width) :]
    found = values.gather(1, chosen.flatten(1)).double().numpy().reshape(chosen.shape)
    np.testing.assert_array_equal(np.sort(found), expected)
    assert all(len(row.unique()) == row.numel() for row in chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_hold_the_values_that_they_were_chosen_by(dtype: torch.dtype) -> None:
    """BatchTopK's batch is large enough to be chosen from among candidates."""
    for config, shape in ((TopKConfig(k=5), (50, 300)), (BatchTopKConfig(k=5), (400, 2048))):
        pre = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        entries = build(config, shape[1]).train().choose_entries(pre)
        assert len(entries.latents) == 5 * shape[0]
        assert entries.known.matrix is pre
        assert torch.equal(entries.known.values, pre[entries.token_index, entries.latents])
