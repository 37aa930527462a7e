"""Positions that are left out: captured all the same, and seen by no statistic, no training step and no metric."""

import contextlib
import json
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
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter
from lmsae.text.tokens import open_tokens
from tests.miniature import ROWS, Said, keys, make_until, row_of, write_config, write_sweep

Lmsae = Callable[..., Said]
FIRST, LAST, SIZE = 3, 2, 32
BOS = 0


def skip_positions(folder: Path) -> None:
    """Let the first row leave positions out, and a lorsa beside it."""
    skip = {"skip_first_positions": FIRST, "skip_last_positions": LAST}
    write_config(folder, activations=skip, train={"tokens": 2048}, eval={"tokens": 512}, sae={"d_sae": 32})
    write_sweep(folder, [ROWS[0], row_of("lorsa")])


@pytest.fixture
def skipping(made: Path) -> Path:
    """The working directory: the finished miniature, whose rows now leave positions out; nothing run yet."""
    skip_positions(made)
    return made


@pytest.fixture(scope="module")
def scored(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature whose rows leave positions out, trained and evaluated. Look, and do not touch."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("skipping") / "here", symlinks=True)
    skip_positions(folder)
    with contextlib.chdir(folder):
        make_until("eval")
    return folder


def used(ids: np.ndarray) -> np.ndarray:
    """What may be used of contexts, worked out by hand: no special token, not the first three or last two positions."""
    position = np.arange(SIZE)
    return (ids != BOS) & (position >= FIRST) & (position < SIZE - LAST)


def tokens_of(folder: Path):
    return open_tokens(folder / "artifacts" / "tokenize" / keys(folder, "tokenize")[0])


def test_leaving_positions_out_captures_nothing_anew(skipping: Path, lmsae: Lmsae) -> None:
    write_sweep(skipping, ROWS)
    assert lmsae("plan").code == 0
    said = [lmsae(stage).err.split()[:2] for stage in ("tokenize", "activations", "norm", "init", "train", "eval")]
    assert [int(count) for _, count in said] == [0, 0, 2, 4, 4, 4]


def test_norms_are_measured_at_the_positions_that_are_left(scored: Path) -> None:
    norm = Artifact(scored / "artifacts" / "norm" / keys(scored, "norm")[0])
    store = StoreReader(scored / "artifacts" / norm.spec().inputs["activations"] / "activations.zarr")
    tokens = tokens_of(scored)
    x = store.read(0, tokens.calibration_contexts).double().numpy()[used(tokens.train[: tokens.calibration_contexts])]
    moments = moments_of(norm)
    np.testing.assert_allclose(moments["mean_norm"], np.linalg.norm(x, axis=1).mean(), rtol=1e-12)
    np.testing.assert_allclose(moments["mean"], x.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moments["variance"], x.var(0), rtol=1e-9)


def test_whatever_stands_at_the_positions_left_out_norm_init_and_training_are_the_same(
    scored: Path, tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping = shutil.copytree(scored, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(skipping)
    first_row = [(stage, keys(skipping, stage)[0]) for stage in ("norm", "init", "train")]
    folders = [skipping / "artifacts" / stage / key for stage, key in first_row]
    before = [(folder / "manifest.json").read_bytes() for folder in folders]
    _poison(Artifact(skipping / "artifacts" / "activations" / keys(skipping, "activations")[0]))
    for (stage, key), folder in zip(first_row, folders, strict=True):
        Artifact(folder).clear()
        assert lmsae(stage, key).code == 0
    after = [(folder / "manifest.json").read_bytes() for folder in folders]
    assert [json.loads(text)["files"] for text in after] == [json.loads(text)["files"] for text in before]


def _poison(activations: Artifact) -> None:
    """Write the same activations anew, but for huge ones at the positions that are left out."""
    path = activations.path / "activations.zarr"
    reader = StoreReader(path)
    values = reader.read(0, reader.contexts).clone()
    values[:, :FIRST] = 1e4
    values[:, SIZE - LAST :] = -1e4
    activations.clear()
    with StoreWriter(path, reader.layout) as writer:
        writer.append(values)
    activations.publish({})


@pytest.mark.parametrize("row", [0, 1])
def test_metrics_count_the_positions_that_are_left_and_no_others(
    scored: Path, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pooled explained variance, L0 and mean squared error, once more in NumPy; a lorsa reads whole contexts."""
    monkeypatch.chdir(scored)
    artifact = Artifacts(scored / "artifacts").find(f"eval/{keys(scored, 'eval')[row]}")
    config = evaluate.Config.model_validate(artifact.spec().config)
    dictionary = Dictionary.load(scored / "artifacts" / artifact.spec().inputs["dictionary"])
    ids = tokens_of(scored).held_out[: 512 // SIZE].astype("int64")
    hook_points = [place.hook_point for place in config.places]
    with torch.inference_mode():
        read = config.models[0].load(Runtime(device="cpu")).read(torch.from_numpy(ids), hook_points)
        x, target = (
            torch.cat([read[hook_points[number]].float() for number in numbers], dim=-1)
            for numbers in (config.sites.reads, config.sites.writes)
        )
        codes = dictionary.encode(x)
        y_hat = dictionary.decode(codes, x).double().numpy()[used(ids)]
    y, codes = target.double().numpy()[used(ids)], codes.numpy()[used(ids)]
    metrics = json.loads((artifact.path / "metrics.json").read_text())
    assert metrics["tokens"] == len(y) < 512
    squared_error = ((y - y_hat) ** 2).sum()
    assert metrics["mse"] == pytest.approx(squared_error / len(y), rel=1e-5)
    assert metrics["explained_variance"] == pytest.approx(1 - squared_error / ((y - y.mean(0)) ** 2).sum(), rel=1e-5)
    assert metrics["l0"] == pytest.approx((codes != 0).sum() / len(y), rel=1e-6)


def test_training_has_only_the_tokens_at_the_positions_that_are_left(skipping: Path, lmsae: Lmsae) -> None:
    """The plan knows how many they are; a lorsa, which reads whole contexts, has all tokens of the contexts."""
    tokens = tokens_of(skipping)
    ids = tokens.train[tokens.calibration_contexts :]
    wanted = {"top": int(used(ids).sum()), "lorsa": ids.size}
    rows = [{**row, "train.tokens": "1000000"} for row in (ROWS[0], row_of("lorsa"))]
    write_sweep(skipping, rows)
    said = lmsae("plan").err
    for row, count in wanted.items():
        assert (
            f"row {row}, column train.tokens: train.tokens is 1,000,000, but the store holds {count:,} tokens" in said
        )
    assert wanted["top"] < (ids != BOS).sum()
