"""A model is loaded with every one of its weights or not at all, by either backend."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.errors import SourceError
from lmsae.lm import load, resolve
from tests.lm.conftest import CONFIGS

Weights = dict[str, Tensor]
BACKENDS = ("huggingface", "transformerlens")


def changed(
    folder: Path, tmp_path: Path, change: Callable[[Weights], Weights] = lambda weights: weights, **config: Any
) -> Path:
    """A copy of a model with other weights or an other config.json."""
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((copy / "config.json").read_text()) | config
    (copy / "config.json").write_text(json.dumps(written))
    return copy


def refusal(folder: Path, backend: Any = "huggingface", dtype: Any = "float32") -> str:
    with pytest.raises(SourceError) as caught:
        load(resolve(str(folder)), backend=backend, dtype=dtype, device="cpu")
    return str(caught.value)


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "backend"), [("gpt2", "huggingface"), *((name, BACKENDS[1]) for name in CONFIGS if name != "gemma3")]
)
def test_weights_under_other_names_are_not_drawn_at_random(
    model_folder: Callable[[str], Path], tmp_path: Path, name: str, backend: str
) -> None:
    said = refusal(changed(model_folder(name), tmp_path, prefixed("_orig_mod.")), backend)
    assert "missing are " in said
    assert "unused would be _orig_mod." in said
    assert "save the model inside, model._orig_mod.save_pretrained(folder)" in said


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_head_that_is_not_tied_must_be_there(
    model_folder: Callable[[str], Path], tmp_path: Path, backend: str
) -> None:
    said = refusal(changed(model_folder("llama"), tmp_path, without("lm_head.weight")), backend)
    assert "missing are lm_head.weight. " in said
    assert "set tie_word_embeddings to true" in said


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("llama", {"num_hidden_layers": 4}, "missing are model.layers.3.input_layernorm.weight, .* and 6 more. Mend"),
        ("llama", {"num_hidden_layers": 2}, "unused would be model.layers.2.input_.*from_pretrained.old..save_pretr"),
        ("gemma", {"tie_word_embeddings": False}, "missing are lm_head.weight. If the embedding is the head too"),
        ("llama", {"model_type": "qwen2"}, r"missing are model.layers.0.self_attn.k_proj.bias, .*"),
        ("qwen2", {"model_type": "llama"}, r"unused would be model.layers.0.self_attn.k_proj.bias, .*"),
        (
            "gpt2",
            {"vocab_size": 60},
            r"transformer.wte.weight \(\[61, 32\] for \[60, 32\]\). Put 61 in the place",
        ),
        ("llama", {"vocab_size": 70}, r"lm_head.weight \(\[61, 32\] for \[70, 32\]\), .*Put 61 in the place of 70"),
        ("llama", {"intermediate_size": 40}, r"layers.0.mlp.down_proj.weight \(\[32, 48\] for \[32, 40\]\), .*. Mend"),
    ],
)
def test_a_config_of_another_model_is_told_by_the_weights(
    model_folder: Callable[[str], Path], tmp_path: Path, name: str, config: dict[str, Any], said: str
) -> None:
    folder = changed(model_folder(name), tmp_path, **config)
    message = refusal(folder)
    assert message.startswith(f"the weights in {folder} are not those of the model that its config.json describes: ")
    assert re.search(said, message), message


def mask(size: int = 64) -> Tensor:
    return torch.ones(1, 1, size, size).tril().bool()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", lambda weights: {name.removeprefix("transformer."): weight for name, weight in weights.items()}),
        ("gpt2", lambda weights: weights | {"lm_head.weight": weights["transformer.wte.weight"].clone()}),
        (
            "gpt2",
            lambda weights: weights | {f"transformer.h.0.attn.{n}": mask() for n in ("bias", "masked_bias")},
        ),
        ("gpt_neo", lambda weights: weights | {"transformer.h.1.attn.attention.bias": mask()}),
        ("gpt_neo", lambda weights: weights | {"transformer.h.1.attn.attention.masked_bias": torch.tensor(-1e9)}),
        (
            "gpt_neox_parallel",
            lambda weights: weights | {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)},
        ),
        ("llama", lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    ],
)
def test_what_a_model_ties_leaves_out_or_saved_formerly_passes(
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    tokens: Tensor,
    name: str,
    change: Callable[[Weights], Weights],
) -> None:
    folders = model_folder(name), changed(model_folder(name), tmp_path, change)
    plain, other = (load(resolve(str(f)), backend="huggingface", dtype="float32", device="cpu") for f in folders)
    assert torch.equal(plain.logits(tokens), other.logits(tokens))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_mean_nothing_without_a_scale_are_not_cast(
    model_folder: Callable[[str], Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = changed(model_folder("llama"), tmp_path, lambda weights: weights | {name: weights[name].to(dtype)})
    assert f"{folder / 'model.safetensors'} are no floats of 16 bits or more: {name} (" in refusal(folder)


def test_weights_that_are_no_numbers_are_told_as_the_model_is_loaded(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    damaged = {"model.norm.weight": torch.full((32,), torch.nan)}
    folder = changed(model_folder("llama"), tmp_path, lambda weights: weights | damaged)
    assert "its logits hold NaN in float32. Set model.dtype to float32; if they hold NaN then too" in refusal(folder)


def test_a_dtype_that_is_too_small_for_a_model_is_told(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    large = "model.embed_tokens.weight"
    folder = changed(model_folder("llama"), tmp_path, lambda weights: weights | {large: weights[large] * 1e6})
    assert "its logits hold NaN in float16. Set model.dtype to float32" in refusal(folder, dtype="float16")
    load(resolve(str(folder)), backend="huggingface", dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_act": "tanhh"}, "KeyError: 'tanhh'; mend its config.json"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads (5)"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"rms_norm_eps": "1e-6"}, "Field 'rms_norm_eps' expected float"),
        ({"pad_token_id": 100}, "Padding_idx must be within num_embeddings"),
        ({"transformers_weights": "other.safetensors"}, "other.safetensors"),
    ],
)
def test_what_transformers_cannot_load_is_one_sentence(
    model_folder: Callable[[str], Path], tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    folder = changed(model_folder("llama"), tmp_path, **config)
    message = refusal(folder)
    assert message.startswith(f"transformers cannot load {folder}: ")
    assert said in message


def test_what_transformers_warns_of_is_passed_on(
    model_folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = changed(model_folder("llama"), tmp_path, tie_word_embeddings=True)
    load(resolve(str(folder)), backend="huggingface", dtype="float32", device="cpu")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{folder}: transformers says: The tied weights mapping and config for this model")
    assert said.err.count("\n") == 1
