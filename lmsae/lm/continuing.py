"""Running a model on from replaced activations, without the layers whose results are known already."""

from collections.abc import Iterable, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from lmsae.lm import hook_points as points
from lmsae.lm.protocol import LanguageModel


def first_layer(names: Iterable[str]) -> int:
    """The first layer that has to run where activations at these hook points are replaced; for a module, all do."""
    return min(map(_first_layer, names))


def _first_layer(name: str) -> int:
    if points.is_module(name):
        return 0  # whatever the layer, nothing is known of what enters it
    layer, kind = points.split(name)
    return layer + (kind == "hook_resid_post")


def wanted_residual(names: Iterable[str]) -> str | None:
    """The hook point whose activations, besides those at the hook points named, let a model run on from these; None if
    no others do."""
    names = {*names}
    layer = first_layer(names)
    before = points.residual_before(layer)
    return before[0] if layer and not names & {*before} else None


def run_on(
    model: LanguageModel,
    tokens: Int[Tensor, "batch context"],
    values: Mapping[str, Float[Tensor, "batch context _"]],
    known: Mapping[str, Float[Tensor, "batch context _"]],
) -> Float[Tensor, "batch context d_vocab"]:
    """The model's logits with values in the place of its activations at some hook points.

    `known` are activations of the same tokens as the model has them by itself. The result is that of `logits_with`. The
    layers before the first value are not run where the residual stream behind them is among the values or known.
    """
    layer = first_layer(values)
    before = points.residual_before(layer)
    entering = next((source[name] for source in (values, known) for name in before if name in source), None)
    edits = {name: lambda _, value=value: value for name, value in values.items() if name not in before}
    if layer == 0 or entering is None:
        return model.logits_with(tokens, {name: lambda _, value=value: value for name, value in values.items()})
    return model.logits_from(tokens, layer, entering, edits)


def finish(
    model: LanguageModel, tokens: Int[Tensor, "batch context"], known: Mapping[str, Float[Tensor, "batch context _"]]
) -> Float[Tensor, "batch context d_vocab"]:
    """The model's own logits, from the last residual stream that is known."""
    streams = [name for name in known if name.endswith((".hook_resid_pre", ".hook_resid_post"))]
    if not streams:
        return model.logits(tokens)
    last = max(streams, key=lambda name: first_layer([name]))
    return run_on(model, tokens, {last: known[last]}, {})
