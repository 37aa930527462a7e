"""Dictionaries that SAELens knows, with random weights, and SAELens' view of them."""

import json
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lmsae.dictionary.config import Normalization
from lmsae.dictionary.dictionary import Dictionary
from lmsae.interop.saelens import export
from tests.architectures import parts, randomize
from tests.dictionary.grid import moments

WIDTH, LATENTS, OUT_WIDTH = 6, 24, 5
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
PROVENANCE = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "hook_name_out": "blocks.1.hook_mlp_out",
    "context_size": 8,
    "prepend_bos": True,
    "dataset_path": "some-text",
    "lmsae_artifact": "train/0123456789abcdef",
}


def _transcoder(architecture: str, act_fn: str, *losses: str) -> dict[str, Any]:
    return {"architecture": architecture, "act_fn": act_fn, "losses": losses}


MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {"architecture": "standard"}),
    "standard_new": ("standard", {"architecture": "standard_new"}),
    "p_anneal": ("standard", {"architecture": "p_anneal"}),
    "gated": ("gated", {"architecture": "gated"}),
    "jumprelu": ("jumprelu", {"architecture": "jumprelu"}),
    "topk": ("topk", {"architecture": "topk"}),
    "batchtopk": ("jumprelu", {"architecture": "batchtopk"}),
    "matryoshka": ("jumprelu", {"architecture": "matryoshka"}),
    "abstopk": ("abstopk", {"architecture": "abstopk"}),
    "matching_pursuit": ("matching_pursuit", {"architecture": "matching_pursuit"}),
    "transcoder-relu": ("transcoder", _transcoder("transcoder", "relu", "l1")),
    "transcoder-jumprelu": ("jumprelu_transcoder", _transcoder("transcoder", "jumprelu", "l0")),
    "transcoder-batchtopk": ("jumprelu_transcoder", _transcoder("transcoder", "batchtopk")),
    "skip_transcoder-relu": ("skip_transcoder", _transcoder("skip_transcoder", "relu", "l1")),
    "skip_transcoder-jumprelu": ("jumprelu_skip_transcoder", _transcoder("skip_transcoder", "jumprelu", "l0")),
    "skip_transcoder-batchtopk": ("jumprelu_skip_transcoder", _transcoder("skip_transcoder", "batchtopk")),
}
"""SAELens' name for it, and the columns that make it: entries of the catalog, and parts written out."""
REFUSED_UNITS = {
    "*/layer_norm": r"divides a token by its deviation \+ 0.00001",
    "skip_transcoder-*/token": "W_skip reads tokens as they are",
    "matching_pursuit/whiten": "no longer the decoder transposed",
}
"""Patterns of name/normalization, and what the refusal says."""


def activations(width: int = WIDTH, count: int = 64) -> Tensor:
    """Off center, correlated, and of a size that no normalization leaves as it is."""
    generator = torch.Generator().manual_seed(width)
    mixed = torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return 3 * mixed + torch.randn(width, generator=generator)


def fitted(architecture: str, *, out_width: int = OUT_WIDTH, **columns: Any) -> Dictionary:
    """A dictionary as the catalog makes it, with random weights and thresholds, and normalizers fitted."""
    config, objective = parts(architecture, WIDTH, LATENTS, out_width=out_width, **columns)
    made, generator = randomize(Dictionary(config)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.sparsity.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        if objective.unit_norm_decoder:
            decoder = cast(Tensor, made.geometry.W_dec)
            decoder.copy_(normalize(decoder, dim=1))
    x, target = (
        torch.cat([activations(width) for width in widths], -1)
        for widths in (config.widths.reads, config.widths.writes)
    )
    made.fit(moments(x, config.widths.reads), moments(target, config.widths.writes), x, target)
    made.sparsity.observe(torch.full((1, made.geometry.latents), 0.35))
    return made.eval().requires_grad_(False)


def made_as(name: str, **columns: Any) -> Dictionary:
    return fitted(**{**MADE[name][1], **columns})


def exported(dictionary: Dictionary, folder: Path, **provenance: Any) -> Path:
    export(dictionary, folder, provenance={**PROVENANCE, **provenance}, density=None)
    return folder


def rewritten(folder: Path, **fields: Any) -> Path:
    """The folder without a word of lmsae, as others write theirs, and with these fields."""
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"].pop("lmsae_dictionary", None)
    (folder / "cfg.json").write_text(json.dumps({**config, **fields}))
    return folder


def saelens(folder: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder).eval()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """Both round in float32, in another order."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def assert_computes_the_same(theirs: Any, ours: Dictionary, codes_times: Tensor | float = 1.0) -> None:
    """The same codes, up to a factor, and the same outputs, of raw activations."""
    x = activations()
    with torch.inference_mode():
        codes = ours.encode(x)
        assert 0 < (codes != 0).float().mean() < 1
        assert_same(theirs.encode(x), codes * codes_times)
        assert_same(theirs(x), ours(x))
