"""Hook points that are named by modules: their widths without weights, what they read, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from lmsae.errors import HookPointError
from lmsae.lm import huggingface
from lmsae.lm.hook_points import split
from lmsae.lm.huggingface import HuggingFaceModel
from lmsae.lm.modules import module_width
from tests.lm.conftest import CONTEXT, SIZES


def tiny(config: tf.PreTrainedConfig) -> HuggingFaceModel:
    torch.manual_seed(0)
    return HuggingFaceModel(tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def stablelm() -> HuggingFaceModel:
    """A model of a family without names."""
    return tiny(tf.StableLmConfig(**SIZES, num_key_value_heads=2))


STABLELM = {
    "model.embed_tokens": 32,
    "model.layers.1": 32,
    "model.layers.1:in": 32,
    "model.layers.1.self_attn": 32,
    "model.layers.1.self_attn:in": 32,
    "model.layers.1.mlp.gate_proj": 48,
    "model.layers.1.mlp.down_proj:in": 48,
    "model.layers.1.self_attn.k_proj": 16,
    "model.norm": 32,
}


@pytest.mark.parametrize(("name", "width"), STABLELM.items())
def test_a_module_of_any_family_is_as_wide_as_it_is_without_weights(
    stablelm: HuggingFaceModel, tokens: Tensor, name: str, width: int
) -> None:
    assert module_width(stablelm.config, name) == width
    assert stablelm.read(tokens, [name])[name].shape == (2, CONTEXT, width)


def test_modules_yield_what_transformers_passes_through_them(stablelm: HuggingFaceModel, tokens: Tensor) -> None:
    seen: dict[str, Any] = {}
    layer = stablelm._model.get_submodule("model.layers.1")
    handles = [
        layer.register_forward_hook(lambda module, args, out: seen.update(out=out)),
        layer.get_submodule("mlp.down_proj").register_forward_hook(lambda module, args, out: seen.update(down=args[0])),
        layer.get_submodule("self_attn").register_forward_hook(
            lambda module, args, kwargs, out: seen.update(attn=kwargs["hidden_states"], z=out[0]), with_kwargs=True
        ),
    ]
    names = {
        "out": "model.layers.1",
        "down": "model.layers.1.mlp.down_proj:in",
        "attn": "model.layers.1.self_attn:in",
        "z": "model.layers.1.self_attn",
    }
    read = stablelm.read(tokens, [*names.values(), "model.norm"])
    for handle in handles:
        handle.remove()
    for word, name in names.items():
        assert torch.equal(read[name], seen[word]), name


def test_an_edit_at_a_module_is_the_one_that_a_hook_of_torch_makes(stablelm: HuggingFaceModel, tokens: Tensor) -> None:
    def rolled(x: Tensor) -> Tensor:
        return x.roll(1, dims=-1)

    def on_kwargs(module: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"hidden_states": rolled(kwargs["hidden_states"])}

    attention = stablelm._model.get_submodule("model.layers.1.self_attn")
    by_hand = {
        "model.layers.1.self_attn": lambda: attention.register_forward_hook(lambda m, a, out: (rolled(out[0]), out[1])),
        "model.layers.1.self_attn:in": lambda: attention.register_forward_pre_hook(on_kwargs, with_kwargs=True),
    }
    clean = stablelm.logits(tokens)
    for name, hook in by_hand.items():
        handle = hook()
        wanted = stablelm.logits(tokens)
        handle.remove()
        assert torch.equal(stablelm.logits_with(tokens, {name: rolled}), wanted)
        assert (wanted - clean).abs().max() > 1e-6


def test_a_known_family_has_its_other_modules_by_name(model_folder: Callable[[str], Path], tokens: Tensor) -> None:
    lm = huggingface.load(model_folder("qwen3_moe"), "float32", "cpu")
    dense, gate = "model.layers.0.mlp.down_proj:in", "model.layers.1.mlp.gate"
    read = lm.read(tokens, [dense, gate, "blocks.1.hook_mlp_out"])
    assert [read[name].shape[-1] for name in read] == [48, 4, 32]
    assert module_width(lm.config, dense) == 48


def test_a_layer_is_the_first_number_in_the_name_of_a_module() -> None:
    assert split("transformer.h.11.attn.c_attn:in") == (11, "transformer.h.11.attn.c_attn:in")
    assert split("model.layers.3")[0] == 3
    with pytest.raises(HookPointError, match="no hook point"):
        split("model.norm")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.layers.3", r"no module 'model\.layers\.3'; did you mean .*model\.layers\.2"),
        ("model.layers.1.mlp.up", r"no module .*did you mean .*model\.layers\.1\.mlp\.up_proj"),
        ("model.rotary_emb", r"yields a tensor \(1, \d+, 8\)|yields a tensor \(1, \d+, 2\)"),
        ("model.layers", "never runs model.layers"),
    ],
)
def test_what_is_no_hook_point_is_refused_with_what_it_is(
    stablelm: HuggingFaceModel, tokens: Tensor, name: str, said: str
) -> None:
    for use in (
        lambda: module_width(stablelm.config, name),
        lambda: stablelm.read(tokens, [name]),
        lambda: stablelm.logits_with(tokens, {name: lambda x: x}),
    ):
        with pytest.raises(HookPointError, match=said):
            use()


def test_a_module_that_runs_several_times_is_refused_where_it_is_spliced(tokens: Tensor) -> None:
    lm = tiny(tf.StableLmConfig(**SIZES, num_key_value_heads=2))
    layers: Any = lm._model.get_submodule("model.layers")
    layers[1].mlp = layers[0].mlp
    with pytest.raises(HookPointError, match="runs several times in one forward pass"):
        lm.logits_with(tokens, {"model.layers.0.mlp": lambda x: x})


def test_a_tensor_that_the_model_adds_to_is_read_as_it_was(model_folder: Callable[[str], Path], tokens: Tensor) -> None:
    """Falcon adds the output of its attention to that of its MLP, in the same memory."""
    lm = huggingface.load(model_folder("falcon"), "float32", "cpu")
    names = [f"blocks.1.{kind}" for kind in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")]
    pre, attention, mlp, post = lm.read(tokens, names).values()
    torch.testing.assert_close(pre + attention + mlp, post, atol=3e-5, rtol=1e-5)
    given = torch.zeros_like(mlp)
    lm.logits_with(tokens, {"blocks.1.hook_mlp_out": lambda x: given})
    assert not given.any(), "what an edit gives is the caller's"


def test_a_model_that_transformers_cannot_build_has_modules_as_wide_as_its_residual_stream(
    model_folder: Callable[[str], Path],
) -> None:
    config = json.loads((model_folder("llama") / "config.json").read_text())
    assert module_width({**config, "model_type": "of-its-own"}, "model.layers.0.mlp.gate_proj") == 32
