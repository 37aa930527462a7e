"""A probe of a model as it is loaded: a few tokens tell if it computes numbers, and if a bridge computes the same."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from lmsae.errors import SourceError
from lmsae.lm.pretrained import describe
from lmsae.lm.protocol import Edit, LanguageModel
from lmsae.runtime.memory import says_no_memory

_TOKENS = 16
_TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.03}
LOGITS = "the logits"
Readings = dict[str, Tensor]
"""Hook point, or LOGITS -> what was there (1, tokens, width), in the order of a forward pass."""


def require_numbers(model: LanguageModel, folder: Path, dtype: str, made: str = "its logits") -> None:
    """Raise SourceError if a forward pass of the model fails, or what it makes in the end holds NaN."""
    try:
        logits = model.logits(_tokens(model))
    except Exception as error:  # of any class: a config.json can ask for what some module cannot do
        if says_no_memory(error):
            raise
        raise SourceError(f"the model in {folder} cannot compute: {describe(error)}. Mend its config.json") from error
    if logits.isnan().any():
        raise SourceError(
            f"the model in {folder} computes no numbers: {made} hold NaN in {dtype}. Set model.dtype to float32; "
            "if they hold NaN then too, its weights are damaged: get them again"
        )


def read_all(model: LanguageModel, names: Sequence[str]) -> Readings:
    """The activations at these hook points that the model computes of the probe's tokens, and its logits."""
    return _read(model, names, {})


def first_difference(model: LanguageModel, expected: Readings) -> tuple[str, float] | None:
    """The first reading at which a model differs from what is expected by more than rounding, and by how much of its
    norm; None if there is none.

    Every layer is given the residual stream that is expected, so that rounding does not grow from layer to layer.
    Of 45 configurations in 12 families, rounding made at most 4e-7 in float32, 0.0013 in bfloat16 and 0.0004 in
    float16. A wrong formula made 0.2 or more in each. Kernels of a GPU round otherwise, hence the margin.
    """
    residuals = {name: x for name, x in expected.items() if name.endswith(("hook_resid_pre", "hook_resid_post"))}
    names = [name for name in expected if name in model.hook_points()]
    for name, found in _read(model, names, residuals).items():
        tolerance = _TOLERANCES[found.dtype]
        wanted = expected[name].double()
        distance, norm = float((found.double() - wanted).norm()), float(wanted.norm())
        if not distance <= tolerance * norm:
            return name, distance / norm if norm else float("inf")
    return None


def _read(model: LanguageModel, names: Sequence[str], given: Readings) -> Readings:
    """One forward pass: notes what is computed at each hook point, and puts what is given in its place."""
    found: Readings = {}

    def note(name: str) -> Edit:
        def edit(activations: Tensor) -> Tensor:
            found[name] = activations
            return given.get(name, activations)

        return edit

    with torch.no_grad():
        logits = model.logits_with(_tokens(model), {name: note(name) for name in names})
    return {name: found[name] for name in names} | {LOGITS: logits}


def _tokens(model: LanguageModel) -> Int[Tensor, "1 context"]:
    """Token ids from all over the vocabulary."""
    count = min(_TOKENS, model.max_context or _TOKENS)
    return (torch.arange(count) * model.d_vocab // count)[None]
