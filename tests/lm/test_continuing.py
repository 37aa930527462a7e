"""Running on from replaced activations: the numbers of a whole forward pass, without the layers before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from lmsae.lm import huggingface, transformerlens
from lmsae.lm.continuing import finish, run_on, wanted_residual
from lmsae.lm.hook_points import family_of, layers_and_width
from lmsae.lm.tapping import find_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


@pytest.fixture
def lm(family: str, model_folder: Callable[[str], Path]) -> Any:
    return huggingface.load(model_folder(family), "float32", "cpu")


def layers_run(lm: Any, run: Callable[[], Tensor]) -> tuple[Tensor, set[int]]:
    """What a run gives, and the layers whose norms were computed for it."""
    lm._can_skip()  # tries it first, on tokens of its own
    seen: set[int] = set()
    stack: Any = find_module(lm._model, family_of(lm.config).layers)
    hooks = [
        child.register_forward_hook(lambda *_, number=number: seen.add(number))
        for number, layer in enumerate(stack)
        for child in layer.children()
    ]
    found = run()
    for hook in hooks:
        hook.remove()
    return found, seen


def test_every_hook_point_is_run_on_from_to_the_bit_of_a_whole_pass(lm: Any, tokens: Tensor) -> None:
    read = lm.read(tokens, list(lm.hook_points()))
    for name, activations in read.items():
        value = activations.roll(1, dims=-1)
        whole = lm.logits_with(tokens, {name: lambda _, value=value: value})
        found, layers = layers_run(lm, lambda name=name, value=value: run_on(lm, tokens, {name: value}, read))
        assert torch.equal(found, whole), name
        first = int(name.split(".")[1]) + name.endswith(".hook_resid_post")
        assert layers == {*range(first, layers_and_width(lm.config)[0])}, name
    assert torch.equal(finish(lm, tokens, read), lm.logits(tokens))
    assert layers_run(lm, lambda: lm.logits(tokens))[1] == {*range(layers_and_width(lm.config)[0])}


def test_several_hook_points_are_run_on_from_the_first(lm: Any, tokens: Tensor) -> None:
    sublayers = {"blocks.1.hook_mlp_out", "blocks.2.hook_attn_out"} & lm.hook_points().keys()  # Mamba has none
    names = ["blocks.1.hook_resid_post", *sorted(sublayers)]
    residual = wanted_residual(names)
    assert residual == ("blocks.1.hook_resid_pre" if sublayers else None)
    read = lm.read(tokens, [*names, "blocks.1.hook_resid_pre"])
    values = {name: read[name].roll(1, dims=-1) for name in names}
    whole = lm.logits_with(tokens, {name: lambda _, value=value: value for name, value in values.items()})
    found, layers = layers_run(lm, lambda: run_on(lm, tokens, values, read))
    assert torch.equal(found, whole)
    assert layers == ({1, 2} if sublayers else {2})


def test_gradients_flow_to_the_values_that_a_model_runs_on_from(lm: Any, tokens: Tensor) -> None:
    name = "blocks.1.hook_resid_post"
    value = lm.read(tokens, [name])[name].clone().requires_grad_()
    gradients = []
    for run in (
        lambda: run_on(lm, tokens, {name: value}, {}),
        lambda: lm.logits_with(tokens, {name: lambda _: value}),
    ):
        gradients += torch.autograd.grad(run().log_softmax(-1)[..., 0].sum(), value)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def test_a_bridge_gives_the_numbers_of_its_whole_pass(model_folder: Callable[[str], Path], tokens: Tensor) -> None:
    bridge = transformerlens.load(model_folder("llama"), "float32", "cpu")
    read = bridge.read(tokens, list(bridge.hook_points()))
    for name in ("blocks.0.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.2.hook_resid_post"):
        value = read[name].roll(1, dims=-1)
        whole = bridge.logits_with(tokens, {name: lambda _, value=value: value})
        assert torch.equal(run_on(bridge, tokens, {name: value}, read), whole)


def test_nothing_is_left_out_of_a_model_whose_layers_take_more_than_the_residual_stream(
    model_folder: Callable[[str], Path], tokens: Tensor
) -> None:
    """A last layer that adds what the first one was given: without the first layer it would add nothing."""
    lm = huggingface.load(model_folder("llama"), "float32", "cpu")
    stack, kept = lm._model.model.layers, {}
    stack[0].mlp.register_forward_hook(lambda module, inputs, output: kept.update(first=output))
    stack[2].mlp.register_forward_hook(lambda module, inputs, output: output + kept["first"])
    name = "blocks.1.hook_resid_post"
    value = lm.read(tokens, [name])[name].roll(1, dims=-1)
    whole = lm.logits_with(tokens, {name: lambda _: value})
    found, layers = layers_run(lm, lambda: run_on(lm, tokens, {name: value}, {}))
    assert torch.equal(found, whole)
    assert layers == {0, 1, 2}


def test_layers_are_as_they_were_when_a_pass_that_left_them_out_fails(
    model_folder: Callable[[str], Path], tokens: Tensor
) -> None:
    lm = huggingface.load(model_folder("gpt2"), "float32", "cpu")
    before, name = lm.logits(tokens), "blocks.1.hook_resid_post"
    value = lm.read(tokens, [name])[name]
    with pytest.raises(ZeroDivisionError):
        lm.logits_from(tokens, 2, value, {"blocks.2.hook_mlp_out": lambda activations: activations * (1 / 0)})
    assert torch.equal(lm.logits(tokens), before)
