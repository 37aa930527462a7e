"""Folders of dictionary_learning, written by hand, against its formulas in NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmsae.dictionary.as_jumprelu import convert_to_jumprelu
from lmsae.errors import ExportError, FolderError
from lmsae.interop.dictionary_learning import load

WIDTH, LATENTS, K = 6, 20, 4
Weights = dict[str, np.ndarray]


def relu(pre: np.ndarray) -> np.ndarray:
    return np.maximum(pre, 0)


def linear(w: Weights, bias: str = "b_dec") -> np.ndarray:
    return (X - w[bias]) @ w["encoder.weight"].T + w["encoder.bias"]


def gated(w: Weights) -> np.ndarray:
    pre = (X - w["decoder_bias"]) @ w["encoder.weight"].T
    codes = (pre + w["gate_bias"] > 0) * relu(np.exp(w["r_mag"]) * pre + w["mag_bias"])
    return codes * np.linalg.norm(w["decoder.weight"], axis=0)


def jumprelu(w: Weights) -> np.ndarray:
    pre = X @ w["W_enc"] + w["b_enc"]
    return relu(pre * (pre > w["threshold"])) * np.linalg.norm(w["W_dec"], axis=1)


def topk(w: Weights) -> np.ndarray:
    codes = relu(linear(w))
    return codes * (codes >= np.sort(codes, axis=1)[:, [-K]])


def above(pre: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return relu(pre) * (relu(pre) > threshold)


RNG = np.random.default_rng(0)
X = 2 * RNG.standard_normal((32, WIDTH))
TO_LATENTS, TO_WIDTH = (LATENTS, WIDTH), (WIDTH, LATENTS)
LINEAR = {"encoder.weight": TO_LATENTS, "encoder.bias": (LATENTS,), "decoder.weight": TO_WIDTH}
PLAIN = {"W_enc": TO_WIDTH, "b_enc": (LATENTS,), "W_dec": TO_LATENTS, "b_dec": (WIDTH,)}
GATES = {name: (LATENTS,) for name in ("gate_bias", "mag_bias", "r_mag")}
LEARNED: dict[str, Any] = {"k": np.int32(K), "threshold": np.float32(0.7)}
CLASSES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "AutoEncoder": ({**LINEAR, "bias": (WIDTH,)}, lambda w: relu(linear(w, "bias")), "bias"),
    "AutoEncoderNew": (
        {**LINEAR, "decoder.bias": (WIDTH,)},
        lambda w: relu(X @ w["encoder.weight"].T + w["encoder.bias"]),
        "decoder.bias",
    ),
    "GatedAutoEncoder": (
        {"encoder.weight": TO_LATENTS, "decoder.weight": TO_WIDTH, "decoder_bias": (WIDTH,), **GATES},
        gated,
        "decoder_bias",
    ),
    "JumpReluAutoEncoder": ({**PLAIN, "threshold": (LATENTS,)}, jumprelu, "b_dec"),
    "AutoEncoderTopK": ({**LINEAR, "b_dec": (WIDTH,), **LEARNED}, topk, "b_dec"),
    "BatchTopKSAE": (
        {**LINEAR, "b_dec": (WIDTH,), **LEARNED},
        lambda w: above(linear(w), w["threshold"]),
        "b_dec",
    ),
    "MatryoshkaBatchTopKSAE": (
        {**PLAIN, **LEARNED, "group_sizes": np.array([5, 15])},
        lambda w: above((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"], w["threshold"]),
        "b_dec",
    ),
}
"""Weights, by shape or value; the codes that dictionary_learning gives of X; and the name of the decoder's bias."""
TIMES_NORMS = ("GatedAutoEncoder", "JumpReluAutoEncoder")


def written(folder: Path, dict_class: str, **other: Any) -> Weights:
    rng = np.random.default_rng(1)
    layout = {**CLASSES[dict_class][0], **other}
    weights = {
        name: 0.5 * rng.standard_normal(what) if isinstance(what, tuple) else np.asarray(what)
        for name, what in layout.items()
    }
    torch.save(
        {n: torch.tensor(w, dtype=torch.float32 if w.dtype.kind == "f" else None) for n, w in weights.items()},
        folder / "ae.pt",
    )
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class}, "buffer": {}}))
    return weights


@pytest.mark.parametrize("dict_class", CLASSES)
def test_each_class_computes_here_what_its_formula_says(tmp_path: Path, dict_class: str) -> None:
    weights = written(tmp_path, dict_class)
    _, formula, bias = CLASSES[dict_class]
    codes = formula(weights)
    rows = weights["W_dec"] if "W_dec" in weights else weights["decoder.weight"].T
    norms = np.linalg.norm(rows, axis=1) if dict_class in TIMES_NORMS else 1.0
    ours, x = load(tmp_path), torch.tensor(X, dtype=torch.float32)
    assert 0 < (codes != 0).mean() < 1
    np.testing.assert_allclose(ours.encode(x).numpy(), codes / norms, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours(x).numpy(), codes / norms @ rows + weights[bias], rtol=1e-4, atol=1e-4)


def test_a_threshold_that_was_never_learned_lets_every_positive_pre_through(tmp_path: Path) -> None:
    weights = written(tmp_path, "BatchTopKSAE", threshold=np.float32(-1))
    codes = load(tmp_path).encode(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(codes, relu(linear(weights)), rtol=1e-4, atol=1e-4)


def test_a_topk_keeps_its_threshold_and_can_be_converted(tmp_path: Path) -> None:
    weights = written(tmp_path, "AutoEncoderTopK")
    codes = convert_to_jumprelu(load(tmp_path)).encode(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(codes, above(linear(weights), weights["threshold"]), rtol=1e-4, atol=1e-4)


def test_a_topk_without_a_threshold_cannot_be_converted(tmp_path: Path) -> None:
    written(tmp_path, "AutoEncoderTopK", threshold=np.float32(-1))
    with pytest.raises(ExportError, match="it has learned no threshold"):
        convert_to_jumprelu(load(tmp_path))


def test_another_class_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path, "AutoEncoder")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "CrossCoder"}}))
    with pytest.raises(FolderError, match=r"reads dictionary_learning's AutoEncoder, .*; this is CrossCoder"):
        load(tmp_path)


def test_weights_of_another_layout_are_refused_with_both_lists(tmp_path: Path) -> None:
    written(tmp_path, "AutoEncoder", jump=(LATENTS,))
    with pytest.raises(FolderError, match=r"AutoEncoder has the weights bias, .* but found .* jump"):
        load(tmp_path)


def test_a_pickle_of_more_than_tensors_is_not_opened(tmp_path: Path) -> None:
    written(tmp_path, "AutoEncoder")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ae.pt")
    with pytest.raises(FolderError, match="holds more than tensors"):
        load(tmp_path)
