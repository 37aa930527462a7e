"""Dense products beside torch's own and float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmsae.kernels import dense
from lmsae.kernels.dense import linear

SHAPES = [(4096, 256), (3, 1400, 256)]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def products(
    function: Callable[..., Tensor], x: Tensor, weights: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> list[Tensor]:
    """What a function gives, and its gradients."""
    given = [one.to(dtype).requires_grad_() for one in (x, weights, bias) if one is not None]
    out = function(*given)
    out.backward(random(*out.shape).to(dtype))
    return [out, *[one.grad for one in given if one.grad is not None]]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_large_products_are_those_of_float64_with_their_gradients(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weights, bias = random(*shape), random(300, 256), random(300) if with_bias else None
    exact = products(functional.linear, x, weights, bias, torch.float64)
    found = products(linear, x, weights, bias, torch.float32)
    assert len(found) == len(exact) == 3 + with_bias
    for one, wanted in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert one.shape == wanted.shape
        torch.testing.assert_close(one.double(), wanted, rtol=1e-4, atol=1e-3)


def test_onednn_makes_large_float32_products_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    if not dense._has_onednn():
        pytest.skip("this torch has no oneDNN, or no operation that asks for it")
    x, weights = random(4096, 256), random(300, 256)
    assert dense._is_for_onednn(x, weights)
    made = torch.ops.mkldnn._linear_pointwise(x, weights, None, "none", [], "")
    assert torch.equal(linear(x, weights), made)
    assert "_Linear" in str(linear(x, weights.requires_grad_()).grad_fn)
    assert not dense._is_for_onednn(x[:100], weights)
    assert not dense._is_for_onednn(x.double(), weights.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not dense._is_for_onednn(x, weights)
        assert linear(x, weights).dtype == torch.bfloat16
    weights.requires_grad_(False)
    monkeypatch.setattr(dense, "_has_onednn", lambda: False)
    assert torch.equal(linear(x, weights), functional.linear(x, weights))


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_each_gradient_is_made_alone(asked: int) -> None:
    given = [random(4096, 256), random(300, 256), random(300)]
    given[asked].requires_grad_()
    linear(*given).sum().backward()
    x, weights, bias = given
    wanted = [weights.sum(0).expand(4096, -1), x.sum(0).expand(300, -1), torch.full((300,), 4096.0)]
    found = given[asked].grad
    assert found is not None
    torch.testing.assert_close(found, wanted[asked].detach(), rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert not linear(x, weights, bias).requires_grad


def test_weights_may_lie_in_memory_in_either_order() -> None:
    x, weights = random(4096, 256), random(300, 256)
    exact = functional.linear(x.double(), weights.double())
    for one in (weights, weights.T.contiguous().T):
        torch.testing.assert_close(linear(x, one).double(), exact, rtol=1e-4, atol=1e-3)


def test_a_single_vector_is_left_to_torch() -> None:
    x, weights = random(4096).requires_grad_(), random(2**16, 1).expand(-1, 4096)
    out = linear(x, weights)
    assert out.shape == (2**16,)
    out.sum().backward()
    assert x.grad is not None
