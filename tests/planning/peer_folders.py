"""Folders of SAELens in the miniature, as if from elsewhere: dictionaries of the width of its model."""

from pathlib import Path
from typing import Any

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interop import saelens
from tests.architectures import parts, randomize
from tests.miniature import HERE

WIDTH, LATENTS, K = 16, 64, 4


def write_peer(folder: Path, architecture: str = "topk", named: dict[str, str] | None = None, **columns: Any) -> Path:
    """Write a dictionary with random weights that was trained on `model` at HERE, or on what is `named` instead."""
    columns = {"k": K, "normalize_activations": "none", **columns}
    made = randomize(Dictionary(parts(architecture, WIDTH, LATENTS, **columns)[0])).requires_grad_(False)
    folder.mkdir(parents=True)
    metadata = {"model_name": "model", "hook_name": HERE, "hook_name_out": HERE} if named is None else named
    saelens.export(made, folder, provenance=metadata, density=None)
    return folder
