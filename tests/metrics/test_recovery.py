"""Recovery: of known sparse features every architecture finds directions and codes, and broken ones do not."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ConfigError
from lmsae.initialization.config import InitConfig
from lmsae.initialization.initialize import initialize
from lmsae.lm import load, resolve
from lmsae.lm.synthetic import SyntheticModel
from lmsae.metrics.recovery import Correlations, mean_max_cosine
from lmsae.planning.catalog import CATALOG
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective
from lmsae.training.run import Run
from tests.architectures import parts

WIDTH, D_SAE, CONTEXT_SIZE, BATCH, STEPS, LR = 24, 64, 32, 256, 1500, 3e-3
ALIKE, IN_STEP, EXPLAINED, SPARSE = 0.95, 0.9, 0.8, 6.0
FEATURES = f"builtin:features?features=48&width={WIDTH}&probability=0.042"
MOVED = f"{FEATURES}&layers=1&moved=48"
SITES: dict[str, tuple[str, list[str], list[str]]] = {
    "sae": (FEATURES, ["0.hook_resid_pre"], ["0.hook_resid_pre"]),
    "transcoder": (FEATURES, ["0.hook_resid_mid"], ["0.hook_mlp_out"]),
    "skip_transcoder": (FEATURES, ["0.hook_resid_mid"], ["0.hook_mlp_out"]),
    "crosscoder": (FEATURES, ["0.hook_resid_pre", "1.hook_resid_post"], ["0.hook_resid_pre", "1.hook_resid_post"]),
    "clt": (FEATURES, ["0.hook_resid_mid", "1.hook_resid_mid"], ["0.hook_mlp_out", "1.hook_mlp_out"]),
    "lorsa": (MOVED, ["0.hook_resid_pre"], ["0.hook_attn_out"]),
    "molt": (FEATURES, ["0.hook_resid_mid"], ["0.hook_mlp_out"]),
}
"""What each geometry learns here: a model of known features, and which of its hook points it reads and writes."""
COLUMNS: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 1.0},
    "standard_new": {"l1_coefficient": 1.0},
    "gated": {"l1_coefficient": 4.0},
    "p_anneal": {"p_anneal_coefficient": 1.0},
    "jumprelu": {"l0_coefficient": 1.0},
    "topk": {"k": 3},
    "batchtopk": {"k": 2},
    "matryoshka": {"k": 2, "matryoshka_prefixes": "0.75 1"},
    "abstopk": {"k": 3},
    "groupmax": {"k": 4},
    "matching_pursuit": {"k": 3},
    "transcoder": {"k": 3},
    "skip_transcoder": {"k": 3},
    "crosscoder": {"l1_coefficient": 1.0},
    "clt": {"tanh_coefficient": 0.5},
    "lorsa": {"k": 3, "lorsa_d_qk": 16, "lorsa_qk_heads": 1},
    "molt": {"tanh_coefficient": 0.5, "jumprelu_bandwidth": 0.02, "molt_ranks": "1x1"},
}
"""What each architecture must be given, of the size of the answer; all else is left at its default."""
QUICK = {"topk"}
"""Those of every test run; CI trains all of them, with three seeds."""
LOWER: dict[str, tuple[float, float, float]] = {
    "abstopk": (0.95, 0.85, 0.8),
    "groupmax": (0.95, 0.8, 0.8),
    "matching_pursuit": (0.95, 0.8, 0.8),
    "molt": (0.0, 0.8, 0.7),
    "lorsa": (ALIKE, 0.89, EXPLAINED),
}
"""Floors of those that cannot reach ALIKE, IN_STEP and EXPLAINED: a fixed number of latents where tokens hold none to
six of the features; a molt has no directions, and reads amounts out of inputs in which all features lie over each
other; all latents of a lorsa are alive, more than there are features, and share some."""


class Known:
    """A model of known features as a geometry sees it: what is read, what is to be written, and the truth of that."""

    def __init__(self, geometry: str, seed: int) -> None:
        name, reads, writes = SITES[geometry]
        self.reads, self.writes = ([f"blocks.{site}" for site in sites] for sites in (reads, writes))
        model = load(resolve(f"{name}&seed={seed}"), backend="huggingface", dtype="float32", device="cpu")
        assert isinstance(model, SyntheticModel)
        self.model, self.in_contexts = model, geometry == "lorsa"
        self.read, self.written = (
            torch.cat([model.directions(site) for site in sites], dim=1) for sites in (self.reads, self.writes)
        )
        self.batches = [self._batch(number) for number in range(STEPS)]

    def _tokens(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randint(0, self.model.d_vocab, (BATCH // CONTEXT_SIZE, CONTEXT_SIZE), generator=generator)

    def _batch(self, number: int) -> Batch:
        read = self.model.read(self._tokens(number), [*self.reads, *self.writes])
        x, target = (torch.cat([read[site] for site in sites], dim=-1) for sites in (self.reads, self.writes))
        if self.in_contexts:
            return Batch(x, target, torch.ones(x.shape[:2], dtype=torch.bool))
        x = x.flatten(0, 1)
        return Batch(x, x if self.reads == self.writes else target.flatten(0, 1))

    @torch.no_grad()
    def alikeness(self, dictionary: Dictionary) -> float:
        """Mean over features of the largest cosine of what there is to write of them to what any latent writes.

        A skip connection writes a linear part of each feature, and leaves the rest to latents. A decoder alone can
        reach .99: it learns the features even from the codes of a random encoder.
        """
        none = torch.zeros(len(self.read), dictionary.geometry.latents)
        skipped = dictionary.decode(none, self.read) - dictionary.decode(none, 0 * self.read)
        return mean_max_cosine(self.written - skipped, written_by_each(dictionary))[0]

    @torch.no_grad()
    def accord(self, dictionary: Dictionary) -> float:
        """Mean over features of the largest correlation between their amounts and those of any latent, on new data."""
        sums = Correlations()
        there = self.written.any(dim=1)
        for number in range(STEPS, STEPS + 40):
            x = self._batch(number).x
            codes = dictionary.eval().encode(x).reshape(BATCH, -1)
            sums.update(self.model.amounts(self._tokens(number)).flatten(0, 1)[:, there], writing(dictionary, x, codes))
        return sums.mean_max()[0]


def writing(dictionary: Dictionary, x: Tensor, codes: Tensor) -> Tensor:
    """How much each latent writes at each token, up to a factor: its code, and of a molt its code times ||U_i V_i x||,
    since there the amount comes from x and the code says little more than yes or no."""
    geometry: Any = dictionary.geometry
    if dictionary.config.geometry.kind != "molt":
        return codes
    inner = torch.einsum("td,nrd->tnr", dictionary.read(x), geometry.V[0])
    return codes * torch.einsum("tnr,nro->tno", inner, geometry.U[0]).norm(dim=-1)


@torch.no_grad()
def written_by_each(dictionary: Dictionary) -> Tensor:
    """What a code of 1 of each latent writes (latents, d_out), in raw activations."""
    codes = torch.eye(dictionary.geometry.latents)
    x = torch.zeros(len(codes), sum(dictionary.config.widths.reads))
    return dictionary.decode(codes, x) - dictionary.decode(0 * codes, x)


@cache
def known(geometry: str, seed: int) -> Known:
    return Known(geometry, seed)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(name: str, seed: int = 0, spoil: Callable[[Run], Any] = lambda run: None) -> Run:
    """A catalog entry initialized and trained as the stages do it; `spoil` may break the run before its first step."""
    truth = known(CATALOG[name].geometry, seed)
    config, objective = parts(name, WIDTH, D_SAE, **COLUMNS[name])
    dictionary, calibration = Dictionary(config), truth.batches[:8]
    x, target = torch.cat([batch.x for batch in calibration]), torch.cat([batch.target for batch in calibration])
    for normalizer, raw in ((dictionary.read, x), (dictionary.write, target)):
        sites = raw.flatten(0, -2).split(WIDTH, dim=1)
        normalizer.fit([{"mean_norm": site.norm(dim=1).mean()} for site in sites], raw.flatten(0, -2))
    initialize(
        dictionary,
        *dictionary.normalize(x, x if truth.reads == truth.writes else target),
        torch.ones(x.shape[:2], dtype=torch.bool) if truth.in_contexts else None,
        InitConfig(seed=seed, tokens=1024),
        unit_norm_decoder=objective.unit_norm_decoder,
    )
    training = TrainConfig(tokens=STEPS * BATCH, batch_size=BATCH, lr=LR, dead_threshold=20 * BATCH)
    run = Run(dictionary, objective, training, name)
    spoil(run)
    for batch in truth.batches:
        run.step(batch)
    return run


def require_recovery(name: str, seed: int) -> None:
    truth, run = known(CATALOG[name].geometry, seed), trained(name, seed)
    last, (alike, in_step, explained) = run.curves[-1], LOWER.get(name, (ALIKE, IN_STEP, EXPLAINED))
    assert truth.alikeness(run.dictionary) >= alike
    assert truth.accord(run.dictionary) >= in_step
    assert 0.5 < last["l0"] < SPARSE
    assert last["explained_variance"] > explained
    assert last["dead"] <= 0.35 * run.dictionary.geometry.latents


def test_every_architecture_has_its_columns_here() -> None:
    assert COLUMNS.keys() == CATALOG.keys()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CATALOG]
)
def test_the_true_features_are_found_by_a_sparse_code(name: str) -> None:
    require_recovery(name, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["topk", "jumprelu", "crosscoder"])
def test_the_true_features_are_found_at_other_seeds(name: str, seed: int) -> None:
    require_recovery(name, seed)


def test_random_directions_are_not_taken_for_the_features() -> None:
    guess = Dictionary(parts("topk", WIDTH, D_SAE)[0])
    with torch.no_grad():
        guess.geometry.get_parameter("W_dec").normal_(generator=torch.Generator().manual_seed(5))
    assert known("sae", 0).alikeness(guess) < 0.7


def without_sparsity(run: Run) -> None:
    run.objective = Objective(losses=(), unit_norm_decoder=run.objective.unit_norm_decoder)


def without_encoder_gradient(run: Run) -> None:
    for name in ("W_enc", "b_enc"):
        run.dictionary.geometry.get_parameter(name).requires_grad_(False)


def with_the_wrong_sign(run: Run) -> None:
    for name in ("W_enc", "b_enc"):
        run.dictionary.geometry.get_parameter(name).register_hook(torch.neg)


@pytest.mark.parametrize("name", [pytest.param("standard_new", marks=pytest.mark.slow), "jumprelu"])
def test_without_a_sparsity_loss_the_features_are_missed(name: str) -> None:
    truth, run = known("sae", 0), trained(name, spoil=without_sparsity)
    assert run.curves[-1]["explained_variance"] > 0.95
    assert run.curves[-1]["l0"] > SPARSE
    assert truth.alikeness(run.dictionary) < ALIKE
    assert truth.accord(run.dictionary) < IN_STEP - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "jumprelu"])
def test_without_a_gradient_for_the_encoder_the_features_are_missed(name: str) -> None:
    run = trained(name, spoil=without_encoder_gradient)
    assert known("sae", 0).accord(run.dictionary) < IN_STEP - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "standard_new"])
def test_with_an_encoder_gradient_of_the_wrong_sign_the_features_are_missed(name: str) -> None:
    run = trained(name, spoil=with_the_wrong_sign)
    assert known("sae", 0).accord(run.dictionary) < IN_STEP - 0.3


@pytest.mark.parametrize("name", ["standard", "jumprelu"])
def test_an_architecture_without_any_sparsity_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not sparse: add"):
        parts(name, WIDTH, D_SAE, losses=())


# The measures themselves


def test_the_cosine_is_that_of_the_best_latent_of_either_sign_and_leaves_out_what_is_not_there() -> None:
    directions = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    mean, each = mean_max_cosine(directions, torch.tensor([[0.0, 5.0], [-3.0, 0.0]]))
    assert each.tolist() == pytest.approx([1.0, np.nan, 0.5**0.5], nan_ok=True)
    assert mean == pytest.approx((1 + 0.5**0.5) / 2)


def test_correlations_of_batches_are_those_of_numpy_over_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    amounts, codes = (torch.randn(101, width, generator=generator).relu() for width in (4, 6))
    codes[:, 2] += 3 * amounts[:, 1]
    codes[:, 3] -= 2 * amounts[:, 2]
    sums = Correlations()
    for a, c in zip(amounts.split(30), codes.split(30), strict=True):
        sums.update(a, c)
    wanted = np.abs(np.corrcoef(amounts.double().T, codes.double().T)[:4, 4:]).max(1)
    mean, each = sums.mean_max()
    assert each.tolist() == pytest.approx(wanted)
    assert mean == pytest.approx(wanted.mean())


def test_what_never_changes_correlates_with_nothing() -> None:
    amounts = torch.tensor([[0.1, 0.0, 1.0]] * 50 + [[0.1, 0.0, 0.0]] * 50)
    codes = torch.tensor([[0.3, 0.0]] * 100)
    sums = Correlations()
    sums.update(amounts, codes)
    mean, each = sums.mean_max()
    assert each.tolist() == pytest.approx([np.nan, np.nan, 0.0], nan_ok=True)
    assert mean == 0.0
