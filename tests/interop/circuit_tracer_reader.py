"""A reader of circuit-tracer's folders in float64, written from the description of the format alone: it shares no code
with lmsae, and circuit-tracer itself cannot be installed beside it (its transformer-lens is an older one)."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

Arrays = dict[str, np.ndarray]


def read_config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def read_layers(folder: Path) -> list[Arrays]:
    """The weights of each layer of a transcoder set, whose number is that of the files."""
    count = len([*folder.glob("layer_*.safetensors")])
    return [_float64(folder / f"layer_{layer}.safetensors") for layer in range(count)]


def run_layer(weights: Arrays, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (tokens, n) and output (tokens, d) of a transcoder."""
    codes = _activate(x @ weights["W_enc"].T + weights["b_enc"], weights.get("activation_function.threshold"))
    output = codes @ weights["W_dec"] + weights["b_dec"]
    return codes, output + x @ weights["W_skip"].T if "W_skip" in weights else output


def run_clt(folder: Path, x: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Codes and outputs at each layer of a cross-layer transcoder, of what it reads at each."""
    encoders = [_float64(folder / f"W_enc_{layer}.safetensors") for layer in range(len(x))]
    outputs = [np.tile(one[f"b_dec_{layer}"], (len(x[layer]), 1)) for layer, one in enumerate(encoders)]
    codes = []
    for layer, one in enumerate(encoders):
        pre = x[layer] @ one[f"W_enc_{layer}"].T + one[f"b_enc_{layer}"]
        codes.append(_activate(pre, one.get(f"threshold_{layer}")))
        decoder = _float64(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
        assert decoder.shape[1] == len(x) - layer
        for step in range(decoder.shape[1]):
            outputs[layer + step] += codes[layer] @ decoder[:, step]
    return codes, outputs


def _activate(pre: np.ndarray, threshold: np.ndarray | None) -> np.ndarray:
    return np.maximum(pre, 0) if threshold is None else pre * (pre > threshold)


def _float64(file: Path) -> Arrays:
    return {name: values.astype(np.float64) for name, values in load_file(file).items()}
