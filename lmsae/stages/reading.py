"""What stages read from the artifacts of earlier ones."""

import math
from typing import TYPE_CHECKING

from lmsae.artifact import Artifact
from lmsae.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.dictionary.config import DictionaryConfig
    from lmsae.store.reader import StoreReader


def store_for(dictionary: "DictionaryConfig", activations: Artifact) -> "StoreReader":
    """The store of activations that a dictionary reads; raises ShapeError if their width is not its own."""
    from lmsae.store.reader import StoreReader

    store = StoreReader(activations.path / "activations.zarr")
    if store.width != dictionary.d_in:
        raise ShapeError(
            f"the activations in {store.path} have width {store.width}, but the dictionary reads vectors of width "
            f"{dictionary.d_in}. Plan the sweep again (`lmsae plan`): there the width is the model's own."
        )
    return store


def aside_activations(activations: Artifact, tokens: Artifact) -> "Tensor":
    """The activations of usable held-aside tokens, (tokens, width) float32: never part of the training stream."""
    import torch

    from lmsae.store.reader import StoreReader
    from lmsae.text.tokens import open_tokens

    split = open_tokens(tokens.path)
    usable = torch.from_numpy(split.usable("train", slice(0, split.aside_contexts)))
    return StoreReader(activations.path / "activations.zarr").read(0, split.aside_contexts)[usable].float()


def scale_of(norm: Artifact, width: int) -> float:
    """The factor that gives activations a mean norm of sqrt(width)."""
    return math.sqrt(width) / _moments(norm)["mean_norm"].item()


def mean_of(norm: Artifact) -> "Tensor":
    """The mean activation (width,), float32."""
    return _moments(norm)["mean"].float()


def _moments(norm: Artifact) -> dict[str, "Tensor"]:
    from safetensors.torch import load_file

    return load_file(norm.path / "norm.safetensors")
