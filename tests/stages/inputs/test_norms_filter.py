"""Tokens of a large norm are left out when reading: nothing is captured anew, and nothing sees them."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.dictionary.dictionary import Dictionary
from lmsae.runtime.runtime import Runtime
from lmsae.stages import evaluate
from lmsae.stages.inputs.stored import moments_of
from lmsae.store.norms import norms_path
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter
from lmsae.text.tokens import TokenSet, open_tokens
from tests.miniature import ROWS, Said, keys, make_until, row_of, write_config, write_sweep

Lmsae = Callable[..., Said]
FACTOR, BOS = 1.2, 0


def leave_outliers_out(folder: Path) -> None:
    """Let two rows leave outliers out: one of them reads two hook points."""
    write_config(folder, activations={"max_norm_factor": FACTOR}, train={"tokens": 2048}, eval={"tokens": 512})
    write_sweep(folder, [ROWS[0], row_of("crosscoder")])


@pytest.fixture
def filtering(made: Path) -> Path:
    """The working directory: the finished miniature, whose rows now leave outliers out; nothing run yet."""
    leave_outliers_out(made)
    return made


@pytest.fixture(scope="module")
def scored(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature whose rows leave outliers out, trained and evaluated. Look, and do not touch."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("filtering") / "here", symlinks=True)
    leave_outliers_out(folder)
    with contextlib.chdir(folder):
        make_until("eval")
    return folder


def artifact(folder: Path, stage: str, number: int = 0) -> Artifact:
    return Artifacts(folder / "artifacts").find(f"{stage}/{keys(folder, stage)[number]}")


def tokens_of(folder: Path) -> TokenSet:
    return open_tokens(artifact(folder, "tokenize").path)


def stored(folder: Path, number: int) -> np.ndarray:
    """All activations of a hook point, float64; they were rounded to 16 bits when their norms had been taken."""
    store = StoreReader(artifact(folder, "activations", number).path / "activations.zarr")
    return store.read(0, store.contexts).double().numpy()


def left(folder: Path, *places: int) -> np.ndarray:
    """The tokens that are used, worked out by hand from the norms at some hook points."""
    tokens = tokens_of(folder)
    used = tokens.train[:] != BOS
    calibration = used[: tokens.calibration_contexts]
    norms = [np.linalg.norm(stored(folder, place), axis=-1) for place in places]
    small = [norm <= FACTOR * norm[: len(calibration)][calibration].mean() for norm in norms]
    return np.logical_and.reduce([used, *small])


def test_leaving_outliers_out_captures_nothing_anew_and_measures_the_others(filtering: Path, lmsae: Lmsae) -> None:
    assert lmsae("plan").code == 0
    said = [lmsae(stage).err.split()[:2] for stage in ("tokenize", "activations", "norm", "init")]
    assert [int(count) for _, count in said] == [0, 0, 2, 2]
    used, calibration = left(filtering, 0), tokens_of(filtering).calibration_contexts
    x = stored(filtering, 0)[:calibration][used[:calibration]]
    moments = moments_of(artifact(filtering, "norm"))
    assert 0 < len(x) < (tokens_of(filtering).train[:calibration] != BOS).sum()
    np.testing.assert_allclose(moments["mean_norm"], np.linalg.norm(x, axis=1).mean(), rtol=1e-12)
    np.testing.assert_allclose(moments["mean"], x.mean(0), rtol=1e-9, atol=1e-12)
    everything = stored(filtering, 0)[:calibration][tokens_of(filtering).train[:calibration] != BOS]
    np.testing.assert_allclose(moments["max_norm"], FACTOR * np.linalg.norm(everything, axis=1).mean(), rtol=1e-3)


def test_training_has_only_the_tokens_that_are_small_at_every_hook_point(filtering: Path, lmsae: Lmsae) -> None:
    calibration = tokens_of(filtering).calibration_contexts
    write_sweep(filtering, [{**row, "train.tokens": "22000"} for row in (ROWS[0], row_of("crosscoder"))])
    said = lmsae("run").err
    counts = [int(left(filtering, *places)[calibration:].sum()) for places in ((0,), (0, 1))]
    assert counts[1] < counts[0] < 22_000
    found = re.findall(r"the store holds ([\d,]+) tokens to train on", said)
    # One pass refuses, the other is not begun. A token or two lie so near the limit that 16 bits decide.
    assert any(abs(int(found[0].replace(",", "")) - count) <= 2 for count in counts)


def test_whatever_stands_in_place_of_the_outliers_norm_init_and_training_are_the_same(
    scored: Path, tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtering = shutil.copytree(scored, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(filtering)
    stages = ("norm", "init", "train")
    before = [json.loads((artifact(filtering, stage).path / "manifest.json").read_text())["files"] for stage in stages]
    activations, used = artifact(filtering, "activations"), left(filtering, 0)
    path = activations.path / "activations.zarr"
    files = [file for file in norms_path(path).rglob("*") if file.is_file()]
    reader, norms = StoreReader(path), {file: file.read_bytes() for file in files}
    values = reader.read(0, reader.contexts)
    values[torch.from_numpy(~used)] = 1e4
    activations.clear()
    with StoreWriter(path, reader.layout) as writer:
        writer.append(values)
    for file, data in norms.items():  # as they were captured
        file.write_bytes(data)
    activations.publish({})
    for stage in stages:
        key = keys(filtering, stage)[0]
        artifact(filtering, stage).clear()
        assert lmsae(stage, key).code == 0
    after = [json.loads((artifact(filtering, stage).path / "manifest.json").read_text())["files"] for stage in stages]
    assert after == before


@pytest.mark.parametrize("row", [0, 1])
def test_metrics_count_no_outliers(scored: Path, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scored)
    evaluation = artifact(scored, "eval", row)
    config = evaluate.Config.model_validate(evaluation.spec().config)
    dictionary = Dictionary.load(scored / "artifacts" / evaluation.spec().inputs["dictionary"])
    ids = tokens_of(scored).held_out[: 512 // 32].astype("int64")
    hook_points = [place.hook_point for place in config.places]
    with torch.inference_mode():
        read = config.models[0].load(Runtime(device="cpu")).read(torch.from_numpy(ids), hook_points)
        parts = [read[hook_point] for hook_point in hook_points]
        x = torch.cat(parts, dim=-1)
        limits = [
            float(moments_of(Artifact(scored / "artifacts" / reference))["max_norm"])
            for name, reference in sorted(evaluation.spec().inputs.items())
            if name.startswith("norm")
        ]
        small = [part.norm(dim=-1) <= limit for part, limit in zip(parts, limits, strict=True)]
        used = torch.stack([torch.from_numpy(ids != BOS), *small]).all(0)
        error = (dictionary(x)[used] - x[used]).square().sum() / used.sum()
    metrics = json.loads((evaluation.path / "metrics.json").read_text())
    assert metrics["tokens"] == used.sum() < (ids != BOS).sum()
    assert metrics["mse"] == pytest.approx(float(error), rel=1e-5)


def test_a_factor_of_at_most_one_is_refused(filtering: Path, lmsae: Lmsae) -> None:
    write_config(filtering, activations={"max_norm_factor": 1})
    said = lmsae("plan")
    assert said.code == 2
    assert "max_norm_factor" in said.err
