"""Products at few entries, against dense ones in float64."""

import pytest
import torch
from torch import Tensor

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.entries import SPARSE_SHARE, Entries, KnownValues, combine, dot_factors, spread

TOKENS, LATENTS, WIDTH = 7, 11, 5


@pytest.fixture(params=["kernels", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernels for processors, and as on a GPU without Triton."""
    if request.param == "torch":
        for kind in (cpu_kernels.can_choose, cpu_kernels.can_sort, cpu_kernels.can_sum):
            monkeypatch.setattr(cpu_kernels, kind.__name__, lambda values: False)


@pytest.fixture(params=[0.0, 0.3, 1.0], ids=["no entry", "some entries", "all entries"])
def chosen(request: pytest.FixtureRequest) -> Tensor:
    """A mask in which, if it is neither empty nor full, a token and a latent have no entry at all."""
    mask = torch.rand(TOKENS, LATENTS, generator=torch.Generator().manual_seed(0)) < request.param
    if 0 < request.param < 1:
        mask[2], mask[:, 4] = False, False
    return mask


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_products_are_those_of_the_dense_product(chosen: Tensor) -> None:
    x, weights = random(TOKENS, WIDTH), random(LATENTS, WIDTH, seed=1)
    torch.testing.assert_close(dot_factors(x, weights, Entries.from_mask(chosen)), (x @ weights.T)[chosen])


def test_a_bias_is_added_and_learns_whether_values_are_known_or_not(chosen: Tensor) -> None:
    entries = Entries.from_mask(chosen)
    x, weights, bias = random(TOKENS, WIDTH), random(LATENTS, WIDTH, seed=1), random(LATENTS, seed=2)
    dense = (x @ weights.T + bias)[chosen]
    torch.testing.assert_close(dot_factors(x, weights, entries, bias), dense)
    assert torch.autograd.gradcheck(
        lambda *given: dot_factors(given[0], given[1], entries, given[2]), (x, weights, bias)
    )
    known = dot_factors(x, weights, entries, bias, dense.detach())
    assert torch.equal(known, dense)
    upstream = random(len(dense), seed=3)
    for one, wanted in zip(
        torch.autograd.grad(known, (x, weights, bias), upstream),
        torch.autograd.grad(dense, (x, weights, bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, wanted)


def test_a_combination_is_the_dense_product_of_values_with_zeros_around_them(chosen: Tensor) -> None:
    values, weights = random(int(chosen.sum())), random(LATENTS, WIDTH, seed=1)
    dense = torch.zeros(TOKENS, LATENTS, dtype=torch.float64).masked_scatter(chosen, values)
    torch.testing.assert_close(combine(values, weights, Entries.from_mask(chosen)), dense @ weights)


def test_gradients_are_those_of_finite_differences(chosen: Tensor) -> None:
    entries = Entries.from_mask(chosen)
    x, weights, values = random(TOKENS, WIDTH), random(LATENTS, WIDTH, seed=1), random(int(chosen.sum()))
    assert torch.autograd.gradcheck(lambda x, weights: dot_factors(x, weights, entries), (x, weights))
    assert torch.autograd.gradcheck(lambda weights: spread(weights[:, 0], entries), (weights,))
    if len(values):
        assert torch.autograd.gradcheck(lambda values, weights: combine(values, weights, entries), (values, weights))


def test_float32_products_are_within_rounding_of_float64(chosen: Tensor) -> None:
    x, weights, entries = random(TOKENS, WIDTH), random(LATENTS, WIDTH, seed=1), Entries.from_mask(chosen)
    torch.testing.assert_close(
        dot_factors(x.float(), weights.float(), entries).double(), (x @ weights.T)[chosen], rtol=1e-5, atol=1e-5
    )


def test_entries_stand_token_by_token_and_latent_by_latent(chosen: Tensor) -> None:
    entries = Entries.from_mask(chosen)
    rows, columns = chosen.nonzero(as_tuple=True)
    assert torch.equal(entries.token_index, rows)
    assert torch.equal(entries.latents, columns)
    assert entries.starts.diff().tolist() == chosen.sum(1).tolist()
    transposed, order = entries.transposed
    assert torch.equal(transposed.latents, entries.token_index[order])
    assert transposed.starts.diff().tolist() == chosen.sum(0).tolist()


def test_k_latents_of_each_token_are_entries() -> None:
    latents = torch.tensor([[3, 1], [0, 4], [2, 3]])
    entries = Entries.from_latents(latents, 5)
    assert entries.token_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert entries.latents.tolist() == [3, 1, 0, 4, 2, 3]


def test_selected_entries_stay_where_they_are(chosen: Tensor) -> None:
    entries, values = Entries.from_mask(chosen), random(int(chosen.sum()))
    part = entries.latents % 2 == 0
    weights = random(LATENTS, WIDTH, seed=1)
    dense = torch.zeros(TOKENS, LATENTS, dtype=torch.float64).masked_scatter(chosen, values)
    dense[:, 1::2] = 0
    torch.testing.assert_close(combine(values[part], weights, entries.select(part.nonzero()[:, 0])), dense @ weights)


def test_values_that_are_known_are_not_gathered_again(chosen: Tensor) -> None:
    matrix, entries = random(TOKENS, LATENTS).detach(), Entries.from_mask(chosen)
    marked = torch.full((len(entries.latents),), 7.0, dtype=torch.float64)
    knowing = Entries(entries.starts, entries.latents, entries.width, KnownValues(matrix, marked))
    assert knowing.gather(matrix) is marked
    assert torch.equal(knowing.gather(matrix.clone()), matrix[chosen])


def test_many_entries_are_left_to_dense_products() -> None:
    pre, floor = torch.zeros(10, 100), torch.zeros(100)
    pre.view(-1)[: int(SPARSE_SHARE * pre.numel())] = 1
    assert Entries.find_above(pre, floor) is not None
    assert Entries.find_above(pre.bfloat16(), floor) is None
    pre[-1, -1] = 1
    assert Entries.find_above(pre, floor) is None


def test_entries_above_a_floor_are_those_of_a_mask() -> None:
    pre, floor = random(50, 200).detach().float(), 1.5 + random(200).detach().float().abs()
    above, mask = Entries.find_above(pre, floor), Entries.from_mask(pre > floor)
    assert above is not None
    assert above.width == 200
    assert torch.equal(above.starts, mask.starts)
    assert torch.equal(above.latents, mask.latents)
    codes = pre[mask.token_index, mask.latents] * (mask.latents % 2)
    assert torch.equal(above.active_latents(codes), ((pre > floor) & (torch.arange(200) % 2 == 1)).any(0))
