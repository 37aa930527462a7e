"""The same codes and gradients as SAELens' activation functions, where it has them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lmsae import sparsity
from lmsae.sparsity.config import (
    AbsTopKConfig,
    ActFnConfig,
    BatchTopKConfig,
    JumpReLUConfig,
    MatchingPursuitConfig,
    TopKConfig,
)

GENERATOR = torch.Generator().manual_seed(0)
PRE, WEIGHT = torch.randn(2, 64, 24, generator=GENERATOR, dtype=torch.float64)


def gradients_of(codes: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad((codes * WEIGHT).sum(), inputs)


@pytest.mark.parametrize("config", [TopKConfig(k=5), BatchTopKConfig(k=5), AbsTopKConfig(k=5)])
def test_selection_is_that_of_saelens(config: ActFnConfig) -> None:
    from sae_lens.saes import abstopk_sae, batchtopk_sae, topk_sae

    peers = {"topk": topk_sae.TopK, "batchtopk": batchtopk_sae.BatchTopK, "abstopk": abstopk_sae.AbsTopK}
    assert torch.equal(sparsity.build(config, 24)(PRE), peers[config.kind](5)(PRE))


def test_a_direct_jumprelu_is_that_of_saelens() -> None:
    from sae_lens.saes import jumprelu_sae

    theta = torch.rand(24, generator=GENERATOR, dtype=torch.float64)
    config = JumpReLUConfig(jumprelu_threshold="direct", jumprelu_bandwidth=0.3)
    ours: Any = sparsity.build(config, 24).double()
    ours.load_state_dict({"direct_threshold": theta})
    theirs, pre = theta.clone().requires_grad_(), PRE.clone().requires_grad_()

    codes, peer = ours(pre), jumprelu_sae.JumpReLU.apply(pre, theirs, 0.3, False)
    assert torch.equal(codes, peer)
    for mine, other in zip(
        gradients_of(codes, pre, ours.direct_threshold), gradients_of(peer, pre, theirs), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    (mine,) = gradients_of(ours.step(pre), ours.direct_threshold)
    (other,) = gradients_of(jumprelu_sae.Step.apply(pre, theirs, 0.3, False), theirs)
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


class Tied(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def overlaps(self, latents: Tensor) -> Tensor:
        return self.rows[latents] @ self.rows.T


def test_matching_pursuit_is_that_of_saelens_without_its_early_stops() -> None:
    from sae_lens.saes.matching_pursuit_sae import _encode_matching_pursuit

    # SAELens also stops a token when a latent is chosen again, or when little of x is left. Here k alone decides.
    rows = normalize(torch.randn(24, 8, generator=GENERATOR, dtype=torch.float64), dim=1)
    x = torch.randn(64, 8, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    ours, theirs = Tied(rows.clone()), rows.clone().requires_grad_()
    codes = sparsity.build(MatchingPursuitConfig(k=7), 24)(x @ ours.rows.T, ours)
    peer = _encode_matching_pursuit(x, theirs, 0.0, max_iterations=7, stop_on_duplicate_support=False)
    torch.testing.assert_close(codes, peer, rtol=1e-10, atol=1e-12)
    for mine, other in zip(gradients_of(codes, x, ours.rows), gradients_of(peer, x, theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
