"""Initialisation: the searched norm is the best of those tried, and what it reads is never trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lmsae.artifact import Artifact
from lmsae.catalog import CATALOG
from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialisation import initialise
from lmsae.runtime import Runtime
from lmsae.stages import init, norm, train
from lmsae.stages.stage import Job
from lmsae.store.layout import Layout
from lmsae.store.writer import StoreWriter
from lmsae.text.tokens import TokenWriter
from tests.architectures import parts

WIDTH, D_SAE = 6, 24
X = 1 + torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7.0) / 3)


def initialised(name: str, seed: int = 0, **options: Any) -> tuple[Dictionary, list[dict[str, float]]]:
    config, objective = parts(name, WIDTH, D_SAE)
    made = Dictionary(config)
    defaults = {"decoder_norm": None, "b_dec_mean": True, "search_tokens": 150}
    arguments = {**defaults, "unit_norm_decoder": objective.unit_norm_decoder, **options}
    return made, initialise(made, X, seed=seed, **arguments)


def numpy_loss(made: Dictionary, norm_tried: float, name: str) -> float:
    """Reconstruction loss in float64 at another norm: relu, jumprelu and topk token by token, batchtopk over all."""
    with torch.no_grad():
        directions = torch.nn.functional.normalize(made.geometry.W_dec.double(), dim=1)
        rows = directions if CATALOG[name].defaults.get("unit_norm_decoder") else norm_tried * directions
        x, b_dec = X[:150].double(), made.geometry.b_dec.double()
        codes = made.double().train().sparsity((x - b_dec) @ (norm_tried * directions.T))
        return (codes @ rows + b_dec - x).pow(2).sum(1).mean().item()


@pytest.mark.parametrize("name", CATALOG)
def test_the_norm_chosen_is_the_best_of_those_tried(name: str) -> None:
    made, tried = initialised(name)
    norms, losses = np.array([one["norm"] for one in tried]), [one["loss"] for one in tried]
    best = norms[np.argmin(losses)]
    np.testing.assert_allclose(made.geometry.W_enc.detach().norm(dim=0), best, rtol=1e-5)
    np.testing.assert_allclose(norms[:50], np.linspace(0.1, 5, 50))
    coarse = norms[np.argmin(losses[:50])]
    wanted = coarse + np.linspace(-0.09, 0.1, 20)
    np.testing.assert_allclose(norms[50:], wanted[wanted > 0])
    for norm_tried, loss in list(zip(norms.tolist(), losses, strict=True))[::13]:
        assert loss == pytest.approx(numpy_loss(made, norm_tried, name), rel=1e-5)


@pytest.mark.parametrize("name", CATALOG)
def test_the_encoder_is_the_decoder_transposed(name: str) -> None:
    made, _ = initialised(name)
    geometry = made.geometry
    rows = geometry.norms()
    if CATALOG[name].defaults.get("unit_norm_decoder"):
        torch.testing.assert_close(rows, torch.ones(D_SAE))
    else:
        assert torch.equal(geometry.W_enc, geometry.W_dec.T)
    torch.testing.assert_close(
        torch.nn.functional.normalize(geometry.W_enc, dim=0), torch.nn.functional.normalize(geometry.W_dec, dim=1).T
    )
    assert not geometry.b_enc.any()


@pytest.mark.parametrize(("b_dec_mean", "expected"), [(True, X.mean(0)), (False, torch.zeros(WIDTH))])
def test_b_dec_is_the_mean_of_all_held_aside_activations_or_zero(b_dec_mean: bool, expected: Tensor) -> None:
    made, _ = initialised("topk", b_dec_mean=b_dec_mean)
    assert torch.equal(made.geometry.b_dec, expected)


@pytest.mark.parametrize("name", CATALOG)
def test_a_given_norm_is_taken_without_a_search(name: str) -> None:
    made, tried = initialised(name, decoder_norm=0.25)
    assert tried == []
    torch.testing.assert_close(made.geometry.W_enc.norm(dim=0), torch.full((D_SAE,), 0.25))


@pytest.mark.parametrize("name", CATALOG)
def test_the_seed_decides(name: str) -> None:
    first, again, other = initialised(name)[0], initialised(name)[0], initialised(name, seed=1)[0]
    expected = first.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    assert not torch.equal(other.geometry.W_dec, first.geometry.W_dec)


@pytest.mark.parametrize("name", CATALOG)
def test_a_search_observes_no_statistic(name: str) -> None:
    made, _ = initialised(name)
    fresh = Dictionary(made.config).sparsity.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in made.sparsity.state_dict().items())


# The stages. A token set of 12 contexts, the first 4 of them held aside; token 0 is special and opens each context.

CONTEXTS, ASIDE, CONTEXT_SIZE = 12, 4, 32
Stages = Callable[..., dict[str, Artifact]]


def train_config() -> train.Config:
    dictionary, objective = parts("batchtopk", WIDTH, D_SAE)
    options = {"tokens": 480, "epochs": 2, "batch_size": 32, "window_tokens": 64, "normalize_activations": True}
    return train.Config(dictionary=dictionary, objective=objective, **options)


def make(stage: Any, config: Any, inputs: dict[str, Artifact], out: Path) -> Artifact:
    out.mkdir(parents=True)
    job = Job(f"{stage.STAGE.name}/{out.name}", config, inputs, out)
    assert [done for done, _ in stage.make([job], Runtime(device="cpu"))] == [job]
    return Artifact(out)


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    """Runs norm, init and train over these activations (contexts, context_size, width), in a folder of that name."""

    def run(name: str, activations: Tensor) -> dict[str, Artifact]:
        folder = tmp_path / name
        ids = np.tile(np.arange(CONTEXT_SIZE), (CONTEXTS, 1))
        (folder / "tokens").mkdir(parents=True)
        writer = TokenWriter(folder / "tokens", CONTEXT_SIZE)
        for split in ("train", "held_out"):
            writer.write_split(split, CONTEXTS, CONTEXT_SIZE, [(ids, ids)])
        special = {"bos_token_id": 0, "special_token_ids": [0]}
        writer.write_attributes({"n_aside_contexts": ASIDE, "d_vocab": CONTEXT_SIZE, "counts": {}, **special})
        with StoreWriter(
            folder / "activations" / "activations.zarr", Layout(CONTEXTS, CONTEXT_SIZE, WIDTH, "float32", 64)
        ) as store:
            store.append(activations)
        made = {key: Artifact(folder / key) for key in ("tokens", "activations")}
        made["norm"] = make(norm, norm.Config(), made, folder / "norm")
        dictionary, _ = parts("batchtopk", WIDTH, D_SAE)
        config = init.Config(dictionary=dictionary, normalize_activations=True, unit_norm_decoder=False)
        made["init"] = make(init, config, made, folder / "init")
        made["train"] = make(train, train_config(), made, folder / "train")
        return made

    return run


@pytest.fixture
def activations() -> Tensor:
    return torch.randn(CONTEXTS, CONTEXT_SIZE, WIDTH, generator=torch.Generator().manual_seed(1)) + 1


def test_norm_is_the_moments_of_held_aside_text_tokens(stages: Stages, activations: Tensor) -> None:
    moments = load_file(stages("here", activations)["norm"].path / "norm.safetensors")
    x = activations[:ASIDE, 1:].reshape(-1, WIDTH).double().numpy()
    np.testing.assert_allclose(moments["mean_norm"], np.linalg.norm(x, axis=1).mean(), rtol=1e-12)
    np.testing.assert_allclose(moments["mean"], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments["variance"], x.var(0), rtol=1e-12)


def test_norm_and_init_read_nothing_that_training_reads(stages: Stages, activations: Tensor) -> None:
    changed = activations.clone()
    changed[ASIDE:] = 1e4
    changed[:, 0] = -1e4  # special tokens
    here, there = stages("here", activations), stages("there", changed)
    for stage, file in (("norm", "norm.safetensors"), ("init", "weights.safetensors"), ("init", "search.json")):
        assert (here[stage].path / file).read_bytes() == (there[stage].path / file).read_bytes()


def test_training_reads_no_held_aside_and_no_special_token(stages: Stages, activations: Tensor) -> None:
    changed = activations.clone()
    changed[:ASIDE] = 1e4
    changed[:, 0] = -1e4
    here, there = stages("here", activations), stages("there", changed)
    # With the norm and init of the first, training over the second's activations gives the first's dictionary.
    config = train_config()
    again = make(train, config, here | {"activations": there["activations"]}, here["train"].path.with_name("again"))
    for file in ("dictionary.safetensors", "curves.csv"):
        assert (again.path / file).read_bytes() == (here["train"].path / file).read_bytes()


def test_training_starts_from_the_initial_weights_in_normalised_units(stages: Stages, activations: Tensor) -> None:
    made = stages("here", activations)
    mean_norm = load_file(made["norm"].path / "norm.safetensors")["mean_norm"].item()
    start = Dictionary(parts("batchtopk", WIDTH, D_SAE)[0])
    start.load_state_dict(load_file(made["init"].path / "weights.safetensors"))
    trained = Dictionary.load(made["train"].path)
    assert trained.scale_in.item() == trained.scale_out.item() == pytest.approx(WIDTH**0.5 / mean_norm)
    # Fifteen steps of Adam at 5e-4 move no weight further than the sum of their learning rates.
    moved = (trained.geometry.W_dec - start.geometry.W_dec).abs().max().item()
    assert 0 < moved <= 15 * 5e-4 * 1.01


def test_the_search_is_written_for_the_curious(stages: Stages, activations: Tensor) -> None:
    search = json.loads((stages("here", activations)["init"].path / "search.json").read_text())
    assert len(search) > 60
    assert all(one.keys() == {"norm", "loss"} for one in search)
