"""The lattice: each architecture collapses to a simpler one, and a catalog entry without such an edge fails."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmsae.catalog import CATALOG
from lmsae.dictionary.dictionary import Dictionary
from lmsae.losses import Forward, Progress
from tests.architectures import parts, randomise

WIDTH, D_SAE = 5, 12
X = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))
ONE = X[:1]


def dictionary(name: str, **columns: object) -> Dictionary:
    """Random geometry, the same for every architecture."""
    return randomise(Dictionary(parts(name, WIDTH, D_SAE, **columns)[0])).train()


def relu() -> Dictionary:
    return dictionary("standard_new")


def jumprelu(log_threshold: float) -> Dictionary:
    made = dictionary("jumprelu")
    with torch.no_grad():
        made.sparsity.get_parameter("log_threshold").fill_(log_threshold)
    return made


def unit_rows(name: str) -> Dictionary:
    made = dictionary(name)
    with torch.no_grad():
        made.geometry.W_dec.div_(made.geometry.norms()[:, None])
    return made


Edge = tuple[Callable[[], Dictionary], Callable[[], Dictionary], Tensor]
LATTICE: dict[str, dict[str, Edge]] = {
    "standard": {
        "is standard_new at unit rows": (lambda: unit_rows("standard"), lambda: unit_rows("standard_new"), X),
    },
    "standard_new": {"is topk at k = n": (relu, lambda: dictionary("topk", k=D_SAE), X)},
    "topk": {"at k = n is relu": (lambda: dictionary("topk", k=D_SAE), relu, X)},
    "batchtopk": {
        "with a batch of one is topk": (lambda: dictionary("batchtopk", k=3), lambda: dictionary("topk", k=3), ONE),
        "at k = n is relu": (lambda: dictionary("batchtopk", k=D_SAE), relu, X),
        "in evaluation before any batch is relu": (lambda: dictionary("batchtopk", k=3).eval(), relu, X),
    },
    "jumprelu": {"at theta = 0 is relu": (lambda: jumprelu(-torch.inf), relu, X)},
}


def test_every_catalog_entry_has_an_edge() -> None:
    assert LATTICE.keys() == CATALOG.keys()
    assert all(LATTICE.values())


def pass_and_gradients(made: Dictionary, x: Tensor) -> tuple[Forward, dict[str, Tensor]]:
    forward = made.training_pass(x, x)
    (forward.reconstruction - x).pow(2).sum().backward()
    gradients = {name: value.grad for name, value in made.geometry.named_parameters() if value.grad is not None}
    return forward, gradients


@pytest.mark.parametrize(
    ("complex_one", "simple_one", "x"),
    [pytest.param(*edge, id=f"{name} {said}") for name, edges in LATTICE.items() for said, edge in edges.items()],
)
def test_an_architecture_collapses_to_a_simpler_one_bit_for_bit(
    complex_one: Callable[[], Dictionary], simple_one: Callable[[], Dictionary], x: Tensor
) -> None:
    (mine, my_gradients), (simpler, gradients) = (
        pass_and_gradients(complex_one(), x),
        pass_and_gradients(simple_one(), x),
    )
    assert simpler.codes.any()
    assert torch.equal(mine.codes, simpler.codes)
    assert torch.equal(mine.reconstruction, simpler.reconstruction)
    assert my_gradients.keys() == gradients.keys() == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert all(torch.equal(my_gradients[name], gradients[name]) for name in gradients)


def test_jumprelu_nears_relu_as_its_threshold_falls() -> None:
    codes = relu().training_pass(X, X).codes
    differences = [
        (jumprelu(log_threshold).training_pass(X, X).codes - codes).abs().max().item()
        for log_threshold in (0.0, -1.0, -2.0, -20.0)
    ]
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > 0.5
    assert differences[-1] < 1e-8


def test_the_losses_of_standard_at_unit_rows_are_those_of_standard_new() -> None:
    terms = []
    for name in ("standard", "standard_new"):
        made, objective = unit_rows(name), parts(name, WIDTH, D_SAE)[1]
        forward = made.training_pass(X, X)
        progress = Progress(1.0, torch.zeros(D_SAE, dtype=torch.bool))
        terms.append([loss(made.geometry, made.sparsity, forward, progress).item() for loss in objective.losses])
    assert terms[0] == terms[1]
    assert terms[0][0] > 0
