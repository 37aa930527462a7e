"""Normalizers: what each makes of activations, in float64, and that the way back is the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from torch import Tensor

from lmsae.dictionary import normalizer
from lmsae.dictionary.config import Normalization
from lmsae.dictionary.normalizer import VARIANCE_FLOOR, Normalizer
from lmsae.errors import ExportError, NotEnoughTokens
from tests.dictionary.grid import NORMALIZATIONS, moments

WIDTHS = (6, 4)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.cat(
    [
        size * torch.randn(200, width, generator=GENERATOR) @ torch.randn(width, width, generator=GENERATOR) + size
        for width, size in zip(WIDTHS, (30.0, 0.2), strict=True)
    ],
    dim=1,
).double()


def fitted(kind: Normalization) -> Normalizer:
    made = normalizer.build(kind, WIDTHS).double()
    made.fit(moments(X, WIDTHS), X)
    return made


def by_formula(kind: Normalization, x: np.ndarray) -> np.ndarray:
    """One hook point's activations in training's units."""
    d = x.shape[1]
    if kind == "dataset":
        return x * np.sqrt(d) / np.mean(np.sqrt((x**2).sum(1)))
    if kind == "token":
        return x * np.sqrt(d) / np.sqrt((x**2).sum(1, keepdims=True))
    if kind == "layer_norm":
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    if kind == "whiten":
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        return (x - x.mean(0)) @ vectors @ np.diag(values**-0.5) @ vectors.T
    return x


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_each_hook_point_is_normalized_on_its_own_by_its_formula(kind: Normalization) -> None:
    wanted = np.concatenate([by_formula(kind, part.numpy()) for part in X.split(WIDTHS, dim=1)], axis=1)
    np.testing.assert_allclose(fitted(kind)(X), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_contexts_are_normalized_as_their_tokens_are(kind: Normalization) -> None:
    made = fitted(kind)
    contexts = X.unflatten(0, (20, 10))
    torch.testing.assert_close(made(contexts), made(X).unflatten(0, (20, 10)))
    torch.testing.assert_close(made.restore(made(contexts), contexts), contexts)


@pytest.mark.parametrize("kind", ["dataset", "token", "layer_norm", "whiten"])
def test_the_usual_norm_is_the_root_of_the_width(kind: Normalization) -> None:
    for part in fitted(kind)(X).split(WIDTHS, dim=1):
        norms = part.norm(dim=1)
        size = norms.mean() if kind == "dataset" else norms.pow(2).mean().sqrt()
        assert size.item() == pytest.approx(part.shape[1] ** 0.5)


@pytest.mark.parametrize("kind", ["none", "dataset", "whiten"])
def test_the_affine_map_is_the_normalizer(kind: Normalization) -> None:
    made = fitted(kind)
    affine = made.affine()
    by_map = (X - affine.shift) @ affine.scale if affine.scale.ndim == 2 else (X - affine.shift) * affine.scale
    torch.testing.assert_close(by_map, made(X))
    torch.testing.assert_close(affine.restore_writers(made(X)) + affine.shift, X)


@pytest.mark.parametrize("kind", ["token", "layer_norm"])
def test_a_normalizer_that_looks_at_each_token_is_no_affine_map(kind: Normalization) -> None:
    with pytest.raises(ExportError, match=f"normalize_activations is {kind}.*Train with dataset, whiten or none"):
        fitted(kind).affine()


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("value", [0.0, 1e-30, -3.0, 1e30])
def test_constant_vectors_give_numbers(kind: Normalization, value: float) -> None:
    made = fitted(kind)
    x = torch.full((2, sum(WIDTHS)), value, dtype=torch.float64)
    assert made(x).isfinite().all()
    assert made.restore(made(x), x).isfinite().all()


@pytest.mark.parametrize("kind", ["token", "layer_norm"])
@given(scale=strategies.floats(1e-3, 1e6))
def test_a_token_is_normalized_whatever_its_size(kind: Normalization, scale: float) -> None:
    made = normalizer.build(kind, WIDTHS)
    torch.testing.assert_close(made(X * scale), made(X), rtol=1e-6, atol=1e-6)


def test_a_direction_that_never_varies_is_whitened_to_nearly_nothing() -> None:
    flat = X[:, :6] - X[:, :6].mean(1, keepdim=True)
    made = normalizer.build("whiten", (6,)).double()
    made.fit(moments(flat, (6,)), flat)
    whitened = made(flat)
    variances = torch.linalg.eigvalsh(torch.cov(whitened.T, correction=0))
    torch.testing.assert_close(variances, torch.tensor([0.0, 1, 1, 1, 1, 1]).double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(made.restore(whitened, None), flat)
    widest = torch.linalg.eigvalsh(made.affine().scale).max().item()
    assert widest == pytest.approx((VARIANCE_FLOOR * flat.var(0, correction=0).mean().item()) ** -0.5)


def test_whitening_refuses_fewer_tokens_than_directions() -> None:
    made = normalizer.build("whiten", WIDTHS)
    with pytest.raises(NotEnoughTokens, match=r"width 6 .* and there are 6"):
        made.fit(moments(X[:6], WIDTHS), X[:6])


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_what_was_fitted_comes_back_with_the_state(kind: Normalization) -> None:
    made, other = fitted(kind), normalizer.build(kind, WIDTHS).double()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(X), made(X))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_an_output_that_is_not_read_is_restored_without_it(kind: Normalization) -> None:
    made = normalizer.build_for_output(kind, WIDTHS, is_read=False).double()
    made.fit(moments(X, WIDTHS), X)
    torch.testing.assert_close(made.restore(made(X), None), X)
    if kind in ("token", "layer_norm"):
        assert torch.equal(made(X), fitted("dataset")(X))


def test_covariance_is_that_of_numpy() -> None:
    x: Tensor = (X + 1000).float()
    np.testing.assert_allclose(normalizer.covariance(x), np.cov(x.double().numpy().T, bias=True), rtol=1e-9)
