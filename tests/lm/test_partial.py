"""A model of which only the first layers are loaded reads what the whole one does, with fewer weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.errors import HookPointError, SourceError
from lmsae.lm import huggingface, load, resolve
from lmsae.lm.hook_points import family_of
from lmsae.lm.huggingface import PartialModel
from tests.lm.conftest import SIZES


def partial(folder: Path, *names: str) -> PartialModel:
    model = huggingface.load(folder, "float32", "cpu", up_to=names)
    assert isinstance(model, PartialModel)
    return model


def test_the_first_layers_read_the_same_bits_as_the_whole_model(
    model_folder: Callable[[str], Path], family: str, tokens: Tensor
) -> None:
    whole = huggingface.load(model_folder(family), "float32", "cpu")
    for layer in (0, 1):
        names = [name for name in whole.hook_points() if int(name.split(".")[1]) <= layer]
        part = partial(model_folder(family), *names)
        wanted, found = whole.read(tokens, names), part.read(tokens, names)
        for name in names:
            assert torch.equal(found[name], wanted[name]), name


def test_no_layer_behind_the_last_hook_point_is_loaded_and_no_unembedding(
    model_folder: Callable[[str], Path], family: str
) -> None:
    part = partial(model_folder(family), "blocks.1.hook_resid_pre", "blocks.0.hook_resid_post")
    whole = huggingface.load(model_folder(family), "float32", "cpu")
    dropped = whole.weights.keys() - part.weights.keys()
    last = f"{family_of(whole.config).layers}.2."
    assert {name for name in whole.weights if name.startswith((last, "lm_head"))} == dropped
    assert part.weights.keys() <= whole.weights.keys()
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in part.weights.items())


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (lambda w: w.pop("model.layers.0.mlp.up_proj.weight"), {}, "missing are .*layers.0.mlp.up_proj.weight"),
        (lambda w: w.update(spare=torch.ones(2)), {}, "unused would be spare"),
        (lambda w: None, {"num_hidden_layers": 2}, "unused would be model.layers.2"),
        (lambda w: None, {"intermediate_size": 40}, "of another shape are .*layers.0.mlp.down_proj.weight"),
        (
            lambda w: w.update({"model.embed_tokens.weight": torch.full((61, 32), torch.nan)}),
            {},
            "its activations hold",
        ),
    ],
)
def test_the_weights_that_are_loaded_must_be_those_of_the_model(
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], Any],
    config: dict[str, int],
    said: str,
) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(SourceError, match=said):
        partial(folder, "blocks.0.hook_resid_post")


def test_weights_of_a_layer_that_is_not_loaded_may_be_anything(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"], weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    partial(folder, "blocks.1.hook_resid_post")
    with pytest.raises(SourceError, match="missing are"):
        huggingface.load(folder, "float32", "cpu")


def test_modules_in_layers_are_read_of_the_first_layers_too(
    model_folder: Callable[[str], Path], tokens: Tensor
) -> None:
    name = "model.layers.1.mlp.gate_proj"
    part = partial(model_folder("llama"), name)
    whole = huggingface.load(model_folder("llama"), "float32", "cpu")
    assert torch.equal(part.read(tokens, [name])[name], whole.read(tokens, [name])[name])
    with pytest.raises(HookPointError, match=r"no module 'model\.layers\.2'|has no module"):
        part.read(tokens, ["model.layers.2.mlp.gate_proj"])


def test_a_family_without_names_is_loaded_whole(tmp_path: Path, tokens: Tensor) -> None:
    config = tf.StableLmConfig(**SIZES, num_key_value_heads=2)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    names = ["model.layers.0.mlp"]
    model = load(resolve(str(tmp_path)), backend="huggingface", dtype="float32", device="cpu", up_to=names)
    assert model.read(tokens, names)[names[0]].shape == (2, 12, 32)
    assert model.logits(tokens).shape[-1] == model.d_vocab


SPREAD = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
SPREAD |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}


@pytest.mark.parametrize("device_map", ["auto", SPREAD], ids=["auto", "cpu and disk"])
def test_a_model_on_several_devices_reads_and_splices_as_on_one(
    model_folder: Callable[[str], Path], tokens: Tensor, device_map: Any
) -> None:
    whole = huggingface.load(model_folder("llama"), "float32", "cpu")
    spread = huggingface.load(model_folder("llama"), "float32", "cpu", device_map=device_map)
    if device_map == SPREAD:
        assert {weight.device.type for weight in spread.weights.values()} == {"cpu", "meta"}
    names = list(whole.hook_points())
    wanted, found = whole.read(tokens, names), spread.read(tokens, names)
    assert all(torch.equal(found[name], wanted[name]) for name in names)
    for name in names:
        edits = {name: lambda x: x.roll(1, dims=-1)}
        assert torch.equal(spread.logits_with(tokens, edits), whole.logits_with(tokens, edits)), name
