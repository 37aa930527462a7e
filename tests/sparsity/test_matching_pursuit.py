"""Matching pursuit against the algorithm on residuals, and against topk where rows are orthonormal."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from lmsae import geometry, sparsity
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.sparsity.config import MatchingPursuitConfig, TopKConfig

LATENTS, WIDTH = 12, 5


class Tied(nn.Module):
    """An encoder that is the transpose of these rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def overlaps(self, latents: Tensor) -> Tensor:
        return self.rows[latents] @ self.rows.T


def rows_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(LATENTS, WIDTH, generator=generator, dtype=torch.float64), dim=1)


def inputs_of(seed: int, tokens: int = 9) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)


def pursuit(k: int) -> Any:
    return sparsity.build(MatchingPursuitConfig(k=k), LATENTS)


def by_residuals(x: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Matching pursuit as Mallat and Zhang write it: what is left of x, and the row most like it."""
    codes = np.zeros((len(x), len(rows)))
    for token, left in enumerate(x.copy()):
        for _ in range(k):
            likeness = rows @ left
            best = int(np.argmax(likeness))
            if likeness[best] <= 0:
                break
            codes[token, best] += likeness[best]
            left -= likeness[best] * rows[best]
    return codes


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7))
def test_codes_are_those_of_the_algorithm_on_residuals(seed: int, k: int) -> None:
    rows, x = rows_of(seed), inputs_of(seed)
    codes = pursuit(k)(x @ rows.T, Tied(rows)).detach().numpy()
    np.testing.assert_allclose(codes, by_residuals(x.numpy(), rows.numpy(), k), atol=1e-12)
    assert ((codes != 0).sum(1) <= k).all()
    assert (codes >= 0).all()


def test_a_latent_may_fire_again_and_its_code_is_the_sum() -> None:
    rows, x = rows_of(0), inputs_of(0, tokens=50)
    codes = pursuit(8)(x @ rows.T, Tied(rows)).detach()
    again = (codes > 0).sum(1) < 8
    assert again.any()
    np.testing.assert_allclose(codes, by_residuals(x.numpy(), rows.numpy(), 8), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_with_orthonormal_rows_it_is_topk(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    pre = torch.randn(6, 8, generator=generator, dtype=torch.float64) @ rows.T
    codes = sparsity.build(MatchingPursuitConfig(k=k), 8)(pre, Tied(rows)).detach()
    torch.testing.assert_close(codes, sparsity.build(TopKConfig(k=k), 8)(pre), atol=1e-12, rtol=0)


def test_where_no_pre_is_positive_nothing_fires() -> None:
    rows = rows_of(0)
    assert not pursuit(4)(-torch.ones(3, LATENTS, dtype=torch.float64), Tied(rows)).any()


def test_gradients_are_those_of_the_formula_on_the_chosen_latents() -> None:
    rows, x = rows_of(1), inputs_of(1, tokens=4)
    weight = torch.randn(4, LATENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    here = Tied(rows.clone())
    fed = x.clone().requires_grad_()
    codes = pursuit(6)(fed @ here.rows.T, here)
    (codes * weight).sum().backward()

    there, also_fed = rows.clone().requires_grad_(), x.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for token in range(4):
        left = also_fed[token]
        for _ in range(6):
            best = int((there.detach() @ left.detach()).argmax())
            code = left @ there[best]
            if code <= 0:
                break
            left = left - code * there[best]
            total = total + weight[token, best] * code
    total.backward()

    torch.testing.assert_close(fed.grad, also_fed.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(here.rows.grad, there.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck_where_the_chosen_latents_stay_the_same() -> None:
    rows, x = rows_of(2), inputs_of(2, tokens=3)

    def codes(x: Tensor, rows: Tensor) -> Any:
        module = Tied(rows_of(2))
        del module.rows
        module.rows = rows  # pyright: ignore[reportAttributeAccessIssue]
        return pursuit(4)(x @ rows.T, module)

    assert torch.autograd.gradcheck(codes, (x.requires_grad_(), rows.requires_grad_()))


def test_it_runs_on_the_tied_sae() -> None:
    config = SAEConfig(tied_encoder=True)
    sae: Any = geometry.build(config, Widths(reads=(WIDTH,), writes=(WIDTH,)), LATENTS, encoder_bias=False).double()
    rows, x = rows_of(3), inputs_of(3)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.b_dec.copy_(torch.linspace(-0.5, 0.5, WIDTH))
        codes = pursuit(4)(sae.encode(x.view(3, 3, WIDTH)), sae)
    expected = by_residuals((x - sae.b_dec).detach().numpy(), rows.numpy(), 4)
    np.testing.assert_allclose(codes.view(9, LATENTS), expected, atol=1e-12)


@pytest.mark.parametrize("given", [None, nn.Identity()])
def test_without_directions_it_says_what_it_needs(given: nn.Module | None) -> None:
    with pytest.raises(TypeError, match="needs the geometry"):
        pursuit(2)(torch.zeros(1, LATENTS), given)
