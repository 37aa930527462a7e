"""Nested latents over several hook points: a combination of parts that has no name in the catalog."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.training.run import Run
from tests.training.runs import learn, weights

PLAIN = {"act_fn": "batchtopk", "losses": ("aux_k",)}
NESTED = {"act_fn": "batchtopk", "losses": ("nested", "aux_k"), "matryoshka_prefixes": "0.25 0.5"}
FIRST = 8
"""Latents of the smallest prefix, of 32."""


@pytest.fixture
def trained(make_run: Any, batches_for: Any) -> Any:
    """trained(NESTED, 20): a crosscoder of two hook points with these columns, trained for so many steps."""

    def train(columns: dict[str, Any], steps: int) -> Run:
        return learn(make_run("crosscoder", steps, columns=columns, lr=1e-2), batches_for("crosscoder"))

    return train


def unexplained(run: Run, x: Tensor, latents: int) -> Tensor:
    """The share of the variance of each hook point that the first latents leave."""
    dictionary = run.dictionary.eval()
    with torch.no_grad():
        codes = dictionary.encode(x)
        codes[:, latents:] = 0
        error = dictionary.decode(codes, x) - x
    left, whole = (part.unflatten(1, (2, -1)).pow(2).sum((0, 2)) for part in (error, x - x.mean(0)))
    return left / whole


def test_it_learns(trained: Any) -> None:
    run = trained(NESTED, 100)
    first, last = run.curves[0], run.curves[-1]
    assert last["nested_loss"] < 0.5 * first["nested_loss"]
    assert last["explained_variance"] > 0.5
    assert all(value.isfinite().all() for value in weights(run).values())


@pytest.mark.slow
def test_its_first_latents_explain_each_hook_point_better_than_those_of_a_plain_crosscoder(
    trained: Any, batches_for: Any
) -> None:
    x = torch.cat([batch.x for batch in batches_for("crosscoder")])
    nested, plain = (unexplained(trained(columns, 200), x, FIRST) for columns in (NESTED, PLAIN))
    assert (nested < 0.8 * plain).all()


def test_with_the_whole_as_its_one_prefix_it_is_a_plain_crosscoder(trained: Any) -> None:
    whole, plain = (weights(trained(columns, 20)) for columns in (NESTED | {"matryoshka_prefixes": "1"}, PLAIN))
    assert all(torch.equal(value, plain[name]) for name, value in whole.items())
    nested = weights(trained(NESTED, 20))
    assert not torch.equal(nested["geometry.W_dec"], plain["geometry.W_dec"])
