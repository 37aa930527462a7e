"""Folders of Language-Model-SAEs, written by hand, against its formulas in NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lmsae.errors import FolderError
from lmsae.interop.openmoss import load

WIDTH, LATENTS = 6, 24
NORM_IN, NORM_OUT = 7.0, 3.0
RNG = np.random.default_rng(0)
X = 2 * RNG.standard_normal((32, WIDTH))
THRESHOLD = "activation_function.log_jumprelu_threshold"
SHAPES = {
    "W_E": (WIDTH, LATENTS),
    "b_E": (LATENTS,),
    "W_D": (LATENTS, WIDTH),
    "b_D": (WIDTH,),
    "W_E_glu": (WIDTH, LATENTS),
    "b_E_glu": (LATENTS,),
    THRESHOLD: (LATENTS,),
}
CONFIG = {
    "sae_type": "sae",
    "d_model": WIDTH,
    "expansion_factor": LATENTS / WIDTH,
    "hook_point_in": "blocks.1.hook_resid_post",
    "hook_point_out": "blocks.1.hook_resid_post",
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
    "use_glu_encoder": False,
    "top_k": 50,
}
TRANSCODER = {"hook_point_in": "blocks.1.ln2.hook_normalized", "hook_point_out": "blocks.1.hook_mlp_out"}


def written(folder: Path, **fields: Any) -> dict[str, np.ndarray]:
    config = {**CONFIG, **fields}
    left_out = set() if config["use_glu_encoder"] else {"W_E_glu", "b_E_glu"}
    left_out |= set() if config["use_decoder_bias"] else {"b_D"}
    left_out |= set() if config["act_fn"] == "jumprelu" else {THRESHOLD}
    weights = {name: 0.5 * RNG.standard_normal(shape) for name, shape in SHAPES.items() if name not in left_out}
    norms = {config["hook_point_out"]: NORM_OUT, config["hook_point_in"]: NORM_IN}
    saved = {f"dataset_average_activation_norm.{name}": np.asarray(norm) for name, norm in norms.items()}
    save_file(
        {name: np.asarray(weight, dtype=np.float32) for name, weight in {**weights, **saved}.items()},
        folder / "sae_weights.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def rewritten(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """The same folder with these weights, and no norms."""
    saved = {name: weight.astype(np.float32) for name, weight in weights.items()}
    save_file(saved, folder / "sae_weights.safetensors")


def computed(w: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and outputs of raw X: normalized, encoded, decoded and restored."""
    is_sae = config["hook_point_in"] == config["hook_point_out"]
    scales: dict[str, tuple[Any, Any]] = {
        "dataset-wise": (WIDTH**0.5 / NORM_IN, WIDTH**0.5 / (NORM_IN if is_sae else NORM_OUT)),
        "token-wise": (WIDTH**0.5 / np.linalg.norm(X, axis=1, keepdims=True),) * 2,
        "inference": (1.0, 1.0),
    }
    scale_in, scale_out = scales[config["norm_activation"]]
    x = X * scale_in
    if config.get("apply_decoder_bias_to_pre_encoder"):
        x = x - w.get("b_D", 0)
    pre = x @ w["W_E"] + w["b_E"]
    if "W_E_glu" in w:
        pre = pre / (1 + np.exp(-(x @ w["W_E_glu"] + w["b_E_glu"])))
    norms = np.linalg.norm(w["W_D"], axis=1) if config["sparsity_include_decoder_norm"] else 1.0
    theta = np.exp(w[THRESHOLD]) if THRESHOLD in w else 0.0
    codes = pre * (pre * norms > theta)
    return codes, (codes @ w["W_D"] + w.get("b_D", 0)) / scale_out


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"act_fn": "relu"},
        {"sparsity_include_decoder_norm": False},
        {"use_decoder_bias": False},
        {"use_glu_encoder": True},
        {"apply_decoder_bias_to_pre_encoder": True},
        {"apply_decoder_bias_to_pre_encoder": True, "use_decoder_bias": False},
        {"norm_activation": "token-wise"},
        {"norm_activation": "inference"},
        TRANSCODER,
        {**TRANSCODER, "norm_activation": "inference", "act_fn": "relu"},
    ],
    ids=str,
)
def test_what_it_computes_of_raw_activations_is_computed_here(tmp_path: Path, fields: dict[str, Any]) -> None:
    weights = written(tmp_path, **fields)
    codes, output = computed(weights, {**CONFIG, **fields})
    ours, x = load(tmp_path), torch.tensor(X, dtype=torch.float32)
    assert ours.config.geometry.kind == ("transcoder" if "hook_point_in" in fields else "sae")
    assert 0 < (codes != 0).mean() < 1
    np.testing.assert_allclose(ours.encode(x).numpy(), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours(x).numpy(), output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sae_type": "lorsa"}, "sae_type 'sae'.; this is 'lorsa'"),
        ({"act_fn": "topk"}, "relu and jumprelu; this is 'topk', .* Convert it to jumprelu"),
        ({"norm_activation": "batch-wise"}, "depend on the other tokens of a batch"),
        ({**TRANSCODER, "apply_decoder_bias_to_pre_encoder": True}, "b_dec of a transcoder here is never subtracted"),
        ({"use_glu_encoder": True, "apply_decoder_bias_to_pre_encoder": True}, "GLU encoder's gate here reads x"),
        ({**TRANSCODER, "norm_activation": "token-wise"}, "the norm of an output that is not read"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    written(tmp_path, **fields)
    with pytest.raises(FolderError, match=message):
        load(tmp_path)


def test_a_folder_that_does_not_say_its_norm_is_refused(tmp_path: Path) -> None:
    rewritten(tmp_path, written(tmp_path))
    with pytest.raises(FolderError, match=r"does not say the mean norm of activations at blocks\.1\.hook_resid_post"):
        load(tmp_path)


@pytest.mark.parametrize("name", [THRESHOLD, "log_jumprelu_threshold"])
def test_thresholds_may_have_the_name_of_newer_folders_or_of_older_ones(tmp_path: Path, name: str) -> None:
    fields = {"norm_activation": "inference"}
    weights = written(tmp_path, **fields)
    codes, _ = computed(weights, {**CONFIG, **fields})
    rewritten(tmp_path, {name if key == THRESHOLD else key: weight for key, weight in weights.items()})
    ours = load(tmp_path).encode(torch.tensor(X, dtype=torch.float32))
    np.testing.assert_allclose(ours.numpy(), codes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("found", [[], [THRESHOLD, "log_jumprelu_threshold"]], ids=["neither", "both"])
def test_thresholds_under_neither_name_or_both_are_refused_with_the_newer_one(tmp_path: Path, found: list[str]) -> None:
    weights = written(tmp_path, norm_activation="inference")
    thresholds = weights.pop(THRESHOLD)
    rewritten(tmp_path, weights | dict.fromkeys(found, thresholds))
    with pytest.raises(FolderError, match=r"weights W_D, W_E, activation_function\.log_jumprelu_threshold, b_D"):
        load(tmp_path)
