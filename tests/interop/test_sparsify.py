"""Folders of sparsify, written by hand, against its formulas in NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lmsae.errors import FolderError
from lmsae.interop.sparsify import load

WIDTH, LATENTS, K = 6, 20, 4
RNG = np.random.default_rng(0)
X = 2 * RNG.standard_normal((32, WIDTH))
SHAPES = {
    "encoder.weight": (LATENTS, WIDTH),
    "encoder.bias": (LATENTS,),
    "W_dec": (LATENTS, WIDTH),
    "b_dec": (WIDTH,),
    "W_skip": (WIDTH, WIDTH),
}


def written(folder: Path, **fields: Any) -> dict[str, np.ndarray]:
    names = [name for name in SHAPES if name != "W_skip" or fields.get("skip_connection")]
    weights = {name: 0.5 * RNG.standard_normal(SHAPES[name]) for name in names}
    save_file({name: weight.astype(np.float32) for name, weight in weights.items()}, folder / "sae.safetensors")
    config = {"d_in": WIDTH, "expansion_factor": 32, "num_latents": LATENTS, "k": K, "multi_topk": False}
    (folder / "cfg.json").write_text(json.dumps({**config, **fields}))
    return weights


def largest(pre: np.ndarray) -> np.ndarray:
    codes = np.maximum(pre, 0)
    return codes * (codes >= np.sort(codes, axis=1)[:, [-K]])


def largest_of_groups(pre: np.ndarray) -> np.ndarray:
    groups = np.maximum(pre, 0).reshape(len(pre), K, -1)
    return (groups * (groups == groups.max(-1, keepdims=True))).reshape(pre.shape)


@pytest.mark.parametrize(("activation", "select"), [("topk", largest), ("groupmax", largest_of_groups)])
@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip_transcoder"])
def test_each_kind_computes_here_what_its_formula_says(tmp_path: Path, kind: str, activation: str, select: Any) -> None:
    w = written(tmp_path, activation=activation, transcode=kind != "sae", skip_connection=kind == "skip_transcoder")
    read = X - w["b_dec"] if kind == "sae" else X
    codes = select(read @ w["encoder.weight"].T + w["encoder.bias"])
    output = codes @ w["W_dec"] + w["b_dec"] + (X @ w["W_skip"].T if "W_skip" in w else 0)
    ours, x = load(tmp_path), torch.tensor(X, dtype=torch.float32)
    assert ours.config.geometry.kind == kind
    assert 0 < (codes != 0).mean() < 1
    np.testing.assert_allclose(ours.encode(x).numpy(), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours(x).numpy(), output, rtol=1e-4, atol=1e-4)


def test_a_config_that_says_neither_activation_nor_transcode_is_a_topk_sae(tmp_path: Path) -> None:
    written(tmp_path)
    config = load(tmp_path).config
    assert (config.geometry.kind, config.act_fn.kind) == ("sae", "topk")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "sigmoid"}, "topk and groupmax; this is 'sigmoid'"),
        ({"skip_connection": True}, "an SAE with a skip connection"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    written(tmp_path, **fields)
    with pytest.raises(FolderError, match=message):
        load(tmp_path)


def test_a_missing_decoder_is_refused_with_both_lists(tmp_path: Path) -> None:
    weights = written(tmp_path)
    kept = {name: weight.astype(np.float32) for name, weight in weights.items() if name != "W_dec"}
    save_file(kept, tmp_path / "sae.safetensors")
    with pytest.raises(FolderError, match=r"has the weights W_dec, b_dec, .* but found"):
        load(tmp_path)
