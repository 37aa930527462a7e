"""Matching latents: against an assignment of all of them, and on dictionaries whose common latents are known."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lmsae.metrics import matching
from lmsae.metrics.definitions import SAME
from lmsae.metrics.matching import match_latents

GENERATOR = torch.Generator().manual_seed(0)
WIDTH = 24


def draw(rows: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=GENERATOR)


def test_latents_that_both_have_are_found_in_any_order_and_of_any_norm() -> None:
    common, own, others = draw(30), draw(12), draw(20)
    order = torch.randperm(50, generator=GENERATOR)
    second = (torch.cat([3 * common + 0.1 * draw(30), others]))[order]
    found = match_latents(torch.cat([own, common]), second)
    assert found.first.tolist() == list(range(12, 42))
    assert order[found.second].tolist() == list(range(30))
    assert found.share == 2 * 30 / (42 + 50)
    assert found.cosines.min() > 0.98


def crowd(seed: int) -> torch.Tensor:
    """Directions in crowds, so that a latent has several that it might be matched with."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
    return centers.repeat(7, 1) + 0.55 * torch.randn(56, WIDTH, generator=generator)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [5, 1024])
def test_the_matching_is_the_best_of_all_latents_at_once(
    seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs below the least cosine are worth nothing to it."""
    monkeypatch.setattr(matching, "CHUNK", chunk)
    first, second = crowd(seed + 1)[: 40 + seed], crowd(seed + 100)
    found = match_latents(first, second)
    a, b = (side.double().numpy() / np.linalg.norm(side.double().numpy(), axis=1)[:, None] for side in (first, second))
    gain = np.where(a @ b.T >= SAME, a @ b.T, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    assert found.cosines.sum() == pytest.approx(gain[rows, columns].sum(), rel=1e-6)
    assert len({*found.first.tolist()}) == len({*found.second.tolist()}) == len(found.first)
    assert found.mean_max_cosine == pytest.approx(np.concatenate([(a @ b.T).max(0), (a @ b.T).max(1)]).mean(), rel=1e-6)
    assert gain.max(1).sum() > gain[rows, columns].sum(), "no latent's nearest is another's: a matching of no use"


def test_dictionaries_that_share_nothing_have_no_pairs() -> None:
    found = match_latents(torch.eye(4), -torch.eye(4)[:3])
    assert (len(found.first), found.share, found.mean_max_cosine) == (0, 0.0, 0.0)


def test_the_same_dictionary_returns_whole() -> None:
    rows = draw(100)
    found = match_latents(rows, rows.clone())
    assert (found.first.tolist(), found.second.tolist()) == (list(range(100)), list(range(100)))
    assert found.share == 1
    assert found.mean_max_cosine == pytest.approx(1, abs=1e-6)
