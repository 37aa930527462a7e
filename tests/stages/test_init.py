"""norm and init read what training never reads, and training starts from what they made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.dictionary.dictionary import Dictionary
from lmsae.lm.resolving import ResolvedModel
from lmsae.runtime.runtime import Runtime
from lmsae.stages import activations as activations_stage
from lmsae.stages import init, norm, train
from lmsae.stages.models import LMConfig
from lmsae.stages.sites import Sites
from lmsae.stages.stage import Job
from lmsae.store.layout import Layout
from lmsae.store.writer import StoreWriter
from lmsae.text.tokens import TokenWriter
from tests.architectures import parts

WIDTH, D_SAE = 6, 24
# Of each token set the first contexts are the calibration split; token 0 is special and opens each context.
CONTEXTS, CALIBRATION, CONTEXT_SIZE = 12, 4, 32
HERE = Sites(reads=(0,), writes=(0,))
MODEL = LMConfig(source=ResolvedModel(name="none", revision="none"), backend="huggingface", dtype="float32")
CAPTURE = activations_stage.Config(model=MODEL, hook_point="none", width=WIDTH).model_dump(mode="json")
Stages = Callable[..., dict[str, Artifact]]


def train_config() -> train.Config:
    dictionary, objective = parts("batchtopk", WIDTH, D_SAE)
    return train.Config(
        dictionary=dictionary, objective=objective, sites=HERE, tokens=480, epochs=2, batch_size=32, window_tokens=64
    )


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
        writer.write_attributes(
            {"n_calibration_contexts": CALIBRATION, "d_vocab": CONTEXT_SIZE, "counts": {}, **special}
        )
        captured = Artifacts(folder).add(Spec(stage="activations", version=2, config=CAPTURE, inputs={}))
        layout = Layout(CONTEXTS, CONTEXT_SIZE, WIDTH, "float32", 64)
        with StoreWriter(captured.path / "activations.zarr", layout) as store:
            store.append(activations)
        made = {"tokens": Artifact(folder / "tokens"), "activations": captured}
        made["norm"] = make(norm, norm.Config(), made, folder / "norm")
        dictionary, _ = parts("batchtopk", WIDTH, D_SAE)
        config = init.Config(dictionary=dictionary, sites=HERE, unit_norm_decoder=False)
        made["init"] = make(init, config, made, folder / "init")
        made["train"] = make(train, train_config(), made, folder / "train")
        return made

    return run


@pytest.fixture
def activations() -> Tensor:
    return torch.randn(CONTEXTS, CONTEXT_SIZE, WIDTH, generator=torch.Generator().manual_seed(1)) + 1


def test_norm_is_the_moments_of_calibration_text_tokens(stages: Stages, activations: Tensor) -> None:
    moments = load_file(stages("here", activations)["norm"].path / "norm.safetensors")
    x = activations[:CALIBRATION, 1:].reshape(-1, WIDTH).double().numpy()
    np.testing.assert_allclose(moments["mean_norm"], np.linalg.norm(x, axis=1).mean(), rtol=1e-12)
    np.testing.assert_allclose(moments["mean"], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments["variance"], x.var(0), rtol=1e-12)


def test_norm_and_init_read_nothing_that_training_reads(stages: Stages, activations: Tensor) -> None:
    changed = activations.clone()
    changed[CALIBRATION:] = 1e4
    changed[:, 0] = -1e4  # special tokens
    here, there = stages("here", activations), stages("there", changed)
    for stage, file in (("norm", "norm.safetensors"), ("init", "weights.safetensors"), ("init", "search.json")):
        assert (here[stage].path / file).read_bytes() == (there[stage].path / file).read_bytes()


def test_training_reads_no_calibration_and_no_special_token(stages: Stages, activations: Tensor) -> None:
    changed = activations.clone()
    changed[:CALIBRATION] = 1e4
    changed[:, 0] = -1e4
    here, there = stages("here", activations), stages("there", changed)
    # With the norm and init of the first, training over the second's activations gives the first's dictionary. Only the
    # threshold that it ends with is measured on calibration tokens.
    config = train_config()
    again = make(train, config, here | {"activations": there["activations"]}, here["train"].path.with_name("again"))
    assert (again.path / "curves.csv").read_bytes() == (here["train"].path / "curves.csv").read_bytes()
    first, second = (load_file(one.path / "dictionary.safetensors") for one in (here["train"], again))
    different = {name for name, value in first.items() if not torch.equal(value, second[name])}
    assert different == {"sparsity.threshold_sum"}


def test_training_starts_from_the_initial_weights_in_normalized_units(stages: Stages, activations: Tensor) -> None:
    made = stages("here", activations)
    mean_norm = load_file(made["norm"].path / "norm.safetensors")["mean_norm"].item()
    start = Dictionary(parts("batchtopk", WIDTH, D_SAE)[0])
    start.load_state_dict(load_file(made["init"].path / "weights.safetensors"))
    trained = Dictionary.load(made["train"].path)
    for normalizer in (start.read, start.write, trained.read, trained.write):
        assert normalizer.affine().scale.tolist() == pytest.approx([WIDTH**0.5 / mean_norm] * WIDTH)
    # Fifteen steps of Adam at 5e-4 move no weight further than the sum of their learning rates.
    moved = (trained.geometry.get_parameter("W_dec") - start.geometry.get_parameter("W_dec")).abs().max().item()
    assert 0 < moved <= 15 * 5e-4 * 1.01


def test_the_search_is_written_for_the_curious(stages: Stages, activations: Tensor) -> None:
    search = json.loads((stages("here", activations)["init"].path / "search.json").read_text())
    assert len(search) > 60
    assert all(one.keys() == {"norm", "loss"} for one in search)
