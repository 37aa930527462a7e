"""A bridge that computes otherwise than transformers is refused as it is loaded; a sound one is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from lmsae.errors import SourceError
from lmsae.lm import transformerlens
from lmsae.lm.huggingface import HuggingFaceModel
from lmsae.lm.pretrained import load_pretrained
from lmsae.lm.probing import LOGITS, first_difference, read_all
from tests.lm.conftest import BRIDGED, GROUPED, SIZES, VOCAB

# A norm of the bridge of TransformerLens multiplies float32 by the weights as they are.
of_16_bits = pytest.mark.parametrize("name", [name for name in BRIDGED if name != "olmo2"])

GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def saved(config: tf.PreTrainedConfig, folder: Path) -> Path:
    """A model with random weights that are far from tidy."""
    generator = torch.Generator().manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return folder


@of_16_bits
def test_the_bridge_of_every_family_passes_in_bfloat16(model_folder: Callable[[str], Path], name: str) -> None:
    # In float32 the tests of backends load every family, too.
    transformerlens.load(model_folder(name), "bfloat16", "cpu")


@pytest.mark.slow
@of_16_bits
def test_the_bridge_of_every_family_passes_in_float16(model_folder: Callable[[str], Path], name: str) -> None:
    transformerlens.load(model_folder(name), "float16", "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "where"),
    [
        (tf.GPT2Config(**GPT2, scale_attn_weights=False), "blocks.0.attn.hook_z"),
        (tf.Gemma3TextConfig(**GROUPED, attn_logit_softcapping=2.0, query_pre_attn_scalar=16), "blocks.0.attn.hook_z"),
    ],
)
def test_a_bridge_that_computes_something_else_is_refused_with_the_place(
    tmp_path: Path, config: tf.PreTrainedConfig, where: str, dtype: str
) -> None:
    with pytest.raises(SourceError, match=rf"otherwise than transformers does: {where} differ by 0\.\d+ of their norm"):
        transformerlens.load(saved(config, tmp_path), dtype, "cpu")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (tf.GPTNeoXConfig(**SIZES, attention_bias=False), "AssertionError"),
        (tf.PhiConfig(**SIZES, qk_layernorm=True), "RuntimeError: .*q_layernorm"),
    ],
)
def test_an_error_of_the_bridge_of_any_class_says_which_backend_can(
    tmp_path: Path, config: tf.PreTrainedConfig, error: str
) -> None:
    with pytest.raises(SourceError, match=rf"cannot run .* \({error}.*\); set model.backend to huggingface, which can"):
        transformerlens.load(saved(config, tmp_path), "float32", "cpu")


class Shifted:
    """A model whose activations at one hook point are off by a share of their norm."""

    def __init__(self, model: HuggingFaceModel, name: str, share: float) -> None:
        self._model, self._name, self._share = model, name, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits_with(self, tokens: Tensor, edits: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
        edit = edits[self._name]
        return self._model.logits_with(tokens, edits | {self._name: lambda x: edit(x * (1 + self._share))})


def test_the_first_hook_point_that_differs_is_named_with_its_share(model_folder: Callable[[str], Path]) -> None:
    model = HuggingFaceModel(load_pretrained(model_folder("llama"), "float32", "cpu", False))
    expected = read_all(model, list(model.hook_points()))
    assert list(expected) == [*model.hook_points(), LOGITS]
    assert first_difference(model, expected) is None
    for name in ("blocks.0.hook_resid_pre", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"):
        found = first_difference(Shifted(model, name, 0.01), expected)  # pyright: ignore[reportArgumentType]
        assert found is not None
        assert found == (name, pytest.approx(0.01, rel=1e-3))
        assert first_difference(Shifted(model, name, 1e-5), expected) is None  # pyright: ignore[reportArgumentType]
