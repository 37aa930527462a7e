"""The lattice: each architecture collapses to a simpler one, and a catalog entry without such an edge fails.

Edges are exact to the bit, in codes, reconstruction, every loss and every gradient, unless they say how near they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import Widths
from lmsae.losses import Forward, TrainingStep, reconstruction_loss
from lmsae.planning.catalog import CATALOG
from lmsae.training.objective import Objective
from lmsae.training.unit_rows import remove_radial_gradient
from tests.architectures import parts, randomize

WIDTH, D_SAE = 5, 12
X = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))
ONE = X[:1]
Y = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(3))
RELU = {"act_fn": "relu", "losses": ("l1",)}


@dataclass
class Made:
    """A dictionary and what it is trained by."""

    dictionary: Dictionary
    objective: Objective

    def set(self, **values: Any) -> "Made":
        """Set parameters, by the end of their names, to tensors or numbers."""
        parameters = dict(self.dictionary.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                (full,) = (one for one in parameters if one.endswith(name.replace("__", ".")))
                parameters[full].copy_(torch.as_tensor(value).expand_as(parameters[full]))
        return self

    def like(self, other: "Made", **renamed: str) -> "Made":
        """Copy every parameter of the geometry that another has too, reshaped; `renamed` maps names here to there."""
        there = dict(other.dictionary.geometry.named_parameters())
        with torch.no_grad():
            for name, parameter in self.dictionary.geometry.named_parameters():
                source = there.get(renamed.get(name.replace(".", "__"), name))
                if source is not None:
                    parameter.copy_(source.reshape(parameter.shape))
        return self


def made(name: str, **columns: Any) -> Made:
    """A catalog entry with random weights, one hook point on each side."""
    dictionary, objective = parts(name, WIDTH, D_SAE, **columns)
    one_each = dictionary.model_copy(update={"widths": Widths(reads=(WIDTH,), writes=(WIDTH,))})
    return Made(randomize(Dictionary(one_each)).train(), objective)


def relu(**columns: Any) -> Made:
    return made("standard_new", **columns)


def unit_rows(name: str, **columns: Any) -> Made:
    one = made(name, **columns)
    geometry = one.dictionary.geometry
    return one.set(geometry__W_dec=geometry.get_parameter("W_dec") / geometry.norms()[:, None])


def no_bias(one: Made) -> Made:
    return one.set(b_enc=0.0)


def lifted(name: str) -> Made:
    """With a bias so large that every pre is positive."""
    return made(name, k=3).set(b_enc=100.0)


def sae_without_b_dec(**columns: Any) -> Made:
    """An SAE that reads x itself, as transcoders do."""
    return made("standard_new", apply_b_dec_to_input=False, **columns)


def transcoder(**columns: Any) -> Made:
    return made("transcoder", **columns)


def molt_of_a_constant() -> Made:
    """Transforms of rank 1 that read the first dimension alone, which is 1: so each writes one direction."""
    constant = torch.zeros(D_SAE, 1, WIDTH)
    constant[..., 0] = 1
    return made("molt", molt_ranks="1x1", **RELU).set(V__0=constant)


@dataclass(frozen=True)
class Edge:
    """Two ways to make the same thing. `names` maps parameters of the first to those of the second, where both have
    them under other names; `tolerance` is 0 for equality to the bit."""

    complex_one: Callable[[], Made]
    simple_one: Callable[[], Made]
    x: Tensor = field(default_factory=lambda: X)
    target: Tensor | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.0
    only_codes: bool = False


WITH_ONE = torch.cat([torch.ones(9, 1), X[:, 1:]], dim=1)
LATTICE: dict[str, dict[str, Edge]] = {
    "standard": {
        "at unit rows is standard_new": Edge(lambda: unit_rows("standard"), lambda: unit_rows("standard_new")),
    },
    "standard_new": {
        "is topk at k = n": Edge(lambda: relu(), lambda: made("topk", k=D_SAE, losses=("l1",))),
    },
    "gated": {
        "at r = 0 and b = 0 is relu without a bias": Edge(
            lambda: made("gated").set(b_gate=0.0, r_mag=0.0, b_mag=0.0).like(relu()),
            lambda: no_bias(relu()),
            only_codes=True,
        ),
    },
    "p_anneal": {
        "at p = 1 is standard": Edge(
            lambda: unit_rows("p_anneal", p_start=1.0, p_end=1.0),
            lambda: unit_rows("standard"),
            # Rows of norm 1 are so up to rounding; the L1 of standard has their norms in it, p_anneal has not.
            tolerance=1e-6,
        ),
    },
    "jumprelu": {
        "at theta = 0 is relu": Edge(
            lambda: made("jumprelu", losses=("l1",)).set(log_threshold=-torch.inf), lambda: relu()
        ),
    },
    "topk": {"at k = n is relu": Edge(lambda: made("topk", k=D_SAE, losses=("l1",)), lambda: relu())},
    "batchtopk": {
        "with a batch of one is topk": Edge(lambda: made("batchtopk", k=3), lambda: made("topk", k=3), ONE),
        "at k = n is relu": Edge(lambda: made("batchtopk", k=D_SAE, losses=("l1",)), lambda: relu()),
    },
    "matryoshka": {
        "with one whole prefix is batchtopk": Edge(
            lambda: made("matryoshka", k=3, matryoshka_prefixes="1"), lambda: made("batchtopk", k=3)
        ),
    },
    "abstopk": {
        "is topk where pre is positive": Edge(lambda: lifted("abstopk"), lambda: lifted("topk")),
    },
    "groupmax": {"at k = n is relu": Edge(lambda: made("groupmax", k=D_SAE, losses=("l1",)), lambda: relu())},
    "matching_pursuit": {
        "at k = 1 is topk with a tied encoder and no bias": Edge(
            lambda: made("matching_pursuit", k=1).like(unit_rows("topk", k=1, tied_encoder=True)),
            lambda: no_bias(unit_rows("topk", k=1, losses=(), tied_encoder=True)),
        ),
    },
    "transcoder": {
        "of a hook point to itself is an SAE that reads x": Edge(
            lambda: transcoder(k=3), lambda: made("topk", k=3, apply_b_dec_to_input=False)
        ),
    },
    "skip_transcoder": {
        "at W_skip = 0 is a transcoder": Edge(
            lambda: made("skip_transcoder", k=3).set(W_skip=0.0).like(transcoder(k=3)),
            lambda: transcoder(k=3),
            target=Y,
        ),
    },
    "crosscoder": {
        "of one hook point is an SAE that reads x": Edge(lambda: made("crosscoder"), lambda: sae_without_b_dec()),
    },
    "clt": {
        "of one layer is a transcoder": Edge(
            lambda: made("clt", **RELU).like(transcoder(**RELU), W_dec__0="W_dec"),
            lambda: transcoder(**RELU),
            target=Y,
            names={"W_dec.0": "W_dec"},
        ),
    },
    "lorsa": {
        "of contexts of one token is a transcoder": Edge(
            lambda: made("lorsa", k=3).like(transcoder(k=3)), lambda: transcoder(k=3), target=Y
        ),
    },
    "molt": {
        "of transforms that read a constant is a transcoder": Edge(
            lambda: molt_of_a_constant().like(transcoder(**RELU), U__0="W_dec"),
            lambda: transcoder(**RELU),
            x=WITH_ONE,
            target=Y,
            names={"U.0": "W_dec"},
            # The norm is taken from a Gram matrix, not from the row itself.
            tolerance=1e-6,
        ),
    },
}


def test_every_catalog_entry_has_an_edge() -> None:
    assert LATTICE.keys() == CATALOG.keys()
    assert all(LATTICE.values())


@dataclass
class Passed:
    """What one step computes."""

    forward: Forward
    losses: list[Tensor]
    gradients: dict[str, Tensor]


def one_step(one: Made, edge: Edge, *, constrained: bool) -> Passed:
    """A forward pass, its losses and their gradients as the optimizer sees them; some latents count as dead."""
    target = edge.x if edge.target is None else edge.target
    x, usable = edge.x, None
    if one.dictionary.config.geometry.grain == "context":
        x, target = x[:, None], target[:, None]
        usable = torch.ones(len(x), 1, dtype=torch.bool)
    forward = one.dictionary.training_pass(x, target, usable)
    dead = torch.arange(D_SAE) % 3 == 0
    losses = (
        [] if any(loss.replaces_reconstruction for loss in one.objective.losses) else [reconstruction_loss(forward)]
    )
    for loss in [] if edge.only_codes else one.objective.losses:
        progress = TrainingStep(1.0, dead, memory=loss.memory())
        losses.append(loss(one.dictionary.geometry, one.dictionary.sparsity, forward, progress))
    torch.stack(losses).sum().backward()
    if constrained:
        remove_radial_gradient(one.dictionary.geometry.get_parameter("W_dec"))
    gradients = {name: p.grad for name, p in one.dictionary.geometry.named_parameters() if p.grad is not None}
    return Passed(forward, losses, gradients)


@pytest.mark.parametrize(
    "edge", [pytest.param(edge, id=f"{name} {said}") for name, edges in LATTICE.items() for said, edge in edges.items()]
)
def test_an_architecture_collapses_to_a_simpler_one(edge: Edge) -> None:
    both = edge.complex_one(), edge.simple_one()
    constrained = all(one.objective.unit_norm_decoder for one in both)
    mine, simple = (one_step(one, edge, constrained=constrained) for one in both)
    near: dict[str, Any] = {"rtol": edge.tolerance, "atol": edge.tolerance}
    assert simple.forward.codes.values.any()
    torch.testing.assert_close(mine.forward.codes.values, simple.forward.codes.values, rtol=0, atol=0)
    torch.testing.assert_close(mine.forward.reconstruction, simple.forward.reconstruction, **near)
    assert len(mine.losses) == len(simple.losses)
    for my_loss, loss in zip(mine.losses, simple.losses, strict=True):
        torch.testing.assert_close(my_loss, loss, **near)
    renamed = {edge.names.get(name, name): gradient for name, gradient in mine.gradients.items()}
    shared = renamed.keys() & simple.gradients.keys()
    assert shared >= {"W_dec", "b_dec"}
    for name in shared:
        gradient = renamed[name].reshape(simple.gradients[name].shape)
        torch.testing.assert_close(gradient, simple.gradients[name], **near)


def test_batchtopk_in_evaluation_before_any_batch_is_relu() -> None:
    codes = [one.dictionary.eval().encode(X) for one in (made("batchtopk", k=3), relu())]
    assert torch.equal(*codes)


def test_jumprelu_nears_relu_as_its_threshold_falls() -> None:
    codes = relu().dictionary.training_pass(X, X).codes.values
    differences = [
        (made("jumprelu").set(log_threshold=t).dictionary.training_pass(X, X).codes.values - codes).abs().max().item()
        for t in (0.0, -1.0, -2.0, -20.0)
    ]
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > 0.5
    assert differences[-1] < 1e-8


def test_an_edge_that_is_none_is_seen() -> None:
    with pytest.raises(AssertionError):
        test_an_architecture_collapses_to_a_simpler_one(Edge(lambda: made("topk", k=3), lambda: made("topk", k=4)))
