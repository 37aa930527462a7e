"""The part of folding that several geometries share."""

from torch import Tensor

from lmsae.errors import ExportError


def shift_pre(b_enc: Tensor | None, by: Tensor) -> None:
    """Add a vector (latents,) to all pre, in place. Raises ExportError where there is no bias to take it."""
    if not by.any():
        return
    if b_enc is None:
        raise ExportError(
            "the activation function brings its own biases, so this geometry has no b_enc to take up the shift of its "
            "input; keep the dictionary in training's units, or train it with normalize_activations dataset or none"
        )
    b_enc.add_(by)
