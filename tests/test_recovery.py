"""Recovery: on data made of known sparse features, every architecture finds them, and broken ones do not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lmsae.catalog import CATALOG, Objective, SectionFault
from lmsae.config import Frozen
from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialisation import initialise
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run
from tests.architectures import parts

WIDTH, D_SAE, BATCH, STEPS, LR = 24, 64, 256, 1500, 3e-3
ALIKE, IN_STEP, SPARSE = 0.95, 0.9, 6.0
COLUMNS: dict[str, dict[str, float]] = {
    "standard": {"l1_coefficient": 1.0},
    "standard_new": {"l1_coefficient": 1.0},
    "topk": {"k": 3},
    "batchtopk": {"k": 2},
    "jumprelu": {"l0_coefficient": 1.0},
}
"""What each architecture must be given, of the size of the answer; all else is left at its default."""


class Features(Frozen):
    """Data with a known answer: unit directions, each present with a small probability in an amount of about 1."""

    seed: int
    count: int = 48
    probability: float = 1 / 24
    noise: float = 0.01

    def directions(self) -> Tensor:
        """(count, width), of norm 1."""
        return normalize(torch.randn(self.count, WIDTH, generator=torch.Generator().manual_seed(self.seed)), dim=1)

    def amounts(self, tokens: int, generator: torch.Generator) -> Tensor:
        """How much of each feature each token holds (tokens, count): about two are present, uniform in [0.5, 1.5]."""
        present = torch.rand(tokens, self.count, generator=generator) < self.probability
        return present * (0.5 + torch.rand(tokens, self.count, generator=generator))

    def batches(self) -> Iterator[Tensor]:
        """Endless activations (batch, width)."""
        generator, directions = torch.Generator().manual_seed(self.seed + 1000), self.directions()
        while True:
            noise = self.noise * torch.randn(BATCH, WIDTH, generator=generator)
            yield self.amounts(BATCH, generator) @ directions + noise

    def alikeness(self, dictionary: Dictionary) -> float:
        """Mean over features of the largest cosine to any decoder row (mean max cosine similarity).

        A decoder alone can reach .99: it learns the features even from the codes of a random encoder.
        """
        rows = normalize(dictionary.geometry.W_dec.detach(), dim=1)
        return (rows @ self.directions().T).amax(0).mean().item()

    @torch.no_grad()
    def accord(self, dictionary: Dictionary) -> float:
        """Mean over features of the largest correlation between their amounts and any latent's codes, on new data."""
        amounts = self.amounts(10_000, torch.Generator().manual_seed(self.seed + 2000))
        codes = dictionary.eval().encode(amounts @ self.directions())
        standard = [(value - value.mean(0)) / value.std(0).clamp(min=1e-9) for value in (amounts, codes)]
        return (standard[0].T @ standard[1] / len(amounts)).amax(1).mean().item()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(features: Features, name: str, spoil: Callable[[Run], Any] = lambda run: None) -> Run:
    """A catalog entry initialised and trained as the stages do it; `spoil` may break the run before its first step."""
    config, objective = parts(name, WIDTH, D_SAE, **COLUMNS[name])
    dictionary, stream = Dictionary(config), features.batches()
    aside = torch.cat([next(stream) for _ in range(8)])
    scale = WIDTH**0.5 / aside.norm(dim=1).mean().item()
    initialise(
        dictionary,
        aside * scale,
        seed=features.seed,
        decoder_norm=None,
        b_dec_mean=True,
        unit_norm_decoder=objective.unit_norm_decoder,
        search_tokens=1024,
    )
    dictionary.set_scales(scale, scale)
    training = TrainConfig(tokens=STEPS * BATCH, batch_size=BATCH, lr=LR, dead_threshold=20 * BATCH)
    run = Run(dictionary, objective, training, name)
    spoil(run)
    while not run.is_finished:
        run.step(next(stream))
    return run


def require_recovery(features: Features, name: str) -> None:
    run = trained(features, name)
    last = run.curves[-1]
    assert features.alikeness(run.dictionary) >= ALIKE
    assert features.accord(run.dictionary) >= IN_STEP
    assert 0.5 < last["l0"] < SPARSE
    assert last["explained_variance"] > 0.8
    assert last["dead"] <= 0.2 * D_SAE


def test_every_architecture_has_its_columns_here() -> None:
    assert COLUMNS.keys() == CATALOG.keys()


@pytest.mark.parametrize("name", CATALOG)
def test_the_true_features_are_found_by_a_sparse_code(name: str) -> None:
    require_recovery(Features(seed=0), name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CATALOG)
def test_the_true_features_are_found_at_other_seeds(name: str, seed: int) -> None:
    require_recovery(Features(seed=seed), name)


def test_random_directions_are_not_taken_for_the_features() -> None:
    features, guess = Features(seed=0), Dictionary(parts("topk", WIDTH, D_SAE)[0])
    with torch.no_grad():
        guess.geometry.W_dec.copy_(torch.randn(D_SAE, WIDTH, generator=torch.Generator().manual_seed(5)))
    assert features.alikeness(guess) < 0.7


def without_sparsity(run: Run) -> None:
    run.objective = Objective(losses=(), unit_norm_decoder=run.objective.unit_norm_decoder)


def without_encoder_gradient(run: Run) -> None:
    for parameter in (run.dictionary.geometry.W_enc, run.dictionary.geometry.b_enc):
        parameter.requires_grad_(False)


@pytest.mark.parametrize("name", ["standard_new", "jumprelu"])
def test_without_a_sparsity_loss_the_features_are_missed(name: str) -> None:
    features = Features(seed=0)
    run = trained(features, name, spoil=without_sparsity)
    assert run.curves[-1]["explained_variance"] > 0.95
    assert run.curves[-1]["l0"] > SPARSE
    assert features.alikeness(run.dictionary) < ALIKE
    assert features.accord(run.dictionary) < IN_STEP - 0.1


@pytest.mark.parametrize("name", ["topk", "jumprelu"])
def test_without_a_gradient_for_the_encoder_the_features_are_missed(name: str) -> None:
    features = Features(seed=0)
    assert features.accord(trained(features, name, spoil=without_encoder_gradient).dictionary) < IN_STEP - 0.05


@pytest.mark.parametrize("name", ["standard", "jumprelu"])
def test_an_architecture_without_any_sparsity_is_refused(name: str) -> None:
    with pytest.raises(SectionFault, match="is not sparse: add"):
        parts(name, WIDTH, D_SAE, losses=())
