"""Folders of TransformerLens's own models as the hub has them, and what such models compute, by hand in float64."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCAB, CONTEXT, D_MODEL, HEADS, D_HEAD, D_MLP, LAYERS = 61, 12, 16, 4, 6, 40, 3
SIZES = {"n_layers": LAYERS, "d_model": D_MODEL, "n_heads": HEADS, "d_head": D_HEAD, "d_mlp": D_MLP, "n_ctx": 64}
KINDS: dict[str, dict[str, Any]] = {
    "attn_only": {"attn_only": True, "act_fn": "solu_ln", "normalization": "LNPre"},
    "shortformer": {"attn_only": True, "act_fn": "relu", "normalization": "LNPre", "shortformer_pos": True},
    "gelu": {"attn_only": False, "act_fn": "gelu", "normalization_type": "LN"},
    "solu": {"attn_only": False, "act_fn": "solu_ln", "normalization_type": "LN", "shortformer_pos": False},
    "solu_folded": {"attn_only": False, "act_fn": "solu_ln", "normalization_type": "LNPre", "final_rms": True},
    "plain": {"attn_only": False, "act_fn": "gelu_new", "normalization_type": None},
}
"""What config.json says beside the sizes. The hub's own have fields of training, too."""
TRAINING = {"lr": 1e-3, "batch_size_per_device": 32, "tokenizer_name": "some/tokenizer", "use_bfloat16": True}


def config_of(kind: str, d_vocab: int = VOCAB) -> dict[str, Any]:
    return {**SIZES, "d_vocab": d_vocab, **KINDS[kind], **TRAINING}


def make_weights(kind: str, d_vocab: int = VOCAB) -> dict[str, Tensor]:
    """Random weights by HookedTransformer's names, biases and norms too, and the buffers that it saves beside them."""
    torch.manual_seed(0)
    config = config_of(kind)
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (d_vocab, D_MODEL), "pos_embed.W_pos": (64, D_MODEL)}
    has_weights = norm_of(config) == "LN"
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        for part in "QKV":
            shapes[f"{block}.attn.W_{part}"] = (HEADS, D_MODEL, D_HEAD)
            shapes[f"{block}.attn.b_{part}"] = (HEADS, D_HEAD)
        shapes |= {f"{block}.attn.W_O": (HEADS, D_HEAD, D_MODEL), f"{block}.attn.b_O": (D_MODEL,)}
        norms = {"ln1": D_MODEL}
        if not config["attn_only"]:
            shapes |= {f"{block}.mlp.W_in": (D_MODEL, D_MLP), f"{block}.mlp.b_in": (D_MLP,)}
            shapes |= {f"{block}.mlp.W_out": (D_MLP, D_MODEL), f"{block}.mlp.b_out": (D_MODEL,)}
            norms |= {"ln2": D_MODEL} | ({"mlp.ln": D_MLP} if config["act_fn"] == "solu_ln" else {})
        if has_weights:
            shapes |= {f"{block}.{norm}.{part}": (width,) for norm, width in norms.items() for part in "wb"}
    if has_weights:
        shapes |= {"ln_final.w": (D_MODEL,), "ln_final.b": (D_MODEL,)}
    shapes |= {"unembed.W_U": (D_MODEL, d_vocab), "unembed.b_U": (d_vocab,)}
    weights = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    buffers = {f"blocks.{layer}.attn.mask": torch.ones(64, 64).tril().bool() for layer in range(LAYERS)}
    return weights | buffers | {f"blocks.{layer}.attn.IGNORE": torch.tensor(-1e5) for layer in range(LAYERS)}


def write_lens_model(folder: Path, kind: str, d_vocab: int = VOCAB) -> dict[str, Tensor]:
    """Write a folder as a repository of the hub has it: config.json and model_final.pth. Returns the weights."""
    folder.mkdir(parents=True)
    weights = make_weights(kind, d_vocab)
    (folder / "config.json").write_text(json.dumps(config_of(kind, d_vocab)))
    torch.save(weights, folder / "model_final.pth")
    return weights


def norm_of(config: dict[str, Any]) -> str | None:
    return config["normalization"] if "normalization" in config else config["normalization_type"]


def compute(kind: str, weights: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """Every hook point's activations and the logits, in float64."""
    config, w = config_of(kind), {name: one.double() for name, one in weights.items()}
    found: dict[str, Tensor] = {}

    def norm(x: Tensor, name: str, rms: bool = False) -> Tensor:
        if norm_of(config) is None:
            return x
        x = x if rms else x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.w"] + w[f"{name}.b"] if f"{name}.w" in w else x

    def act(x: Tensor, name: str) -> Tensor:
        if config["act_fn"] == "solu_ln":
            return norm(x * x.softmax(-1), f"{name}.ln")
        if config["act_fn"] == "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    x, positions = w["embed.W_E"][tokens], w["pos_embed.W_pos"][: tokens.shape[1]]
    shortformer = config.get("shortformer_pos", False)
    x = x if shortformer else x + positions
    later = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        found[f"{block}.hook_resid_pre"] = x
        normed = norm(x, f"{block}.ln1")
        if norm_of(config) is not None:
            found[f"{block}.ln1.hook_normalized"] = normed
        looked = normed + positions if shortformer else normed
        q, k, v = (
            torch.einsum("bpd,hde->bhpe", read, w[f"{block}.attn.W_{part}"]) + w[f"{block}.attn.b_{part}"][:, None]
            for part, read in (("Q", looked), ("K", looked), ("V", normed))
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(D_HEAD)).masked_fill(later, -math.inf)
        z = (scores.softmax(-1) @ v).transpose(1, 2)
        found[f"{block}.attn.hook_z"] = z.flatten(2)
        out = torch.einsum("bphe,hed->bpd", z, w[f"{block}.attn.W_O"]) + w[f"{block}.attn.b_O"]
        found[f"{block}.hook_attn_out"] = out
        x = x + out
        if not config["attn_only"]:
            found[f"{block}.hook_resid_mid"] = x
            normed = norm(x, f"{block}.ln2")
            if norm_of(config) is not None:
                found[f"{block}.ln2.hook_normalized"] = normed
            hidden = act(normed @ w[f"{block}.mlp.W_in"] + w[f"{block}.mlp.b_in"], f"{block}.mlp")
            found[f"{block}.mlp.hook_post"] = hidden
            out = hidden @ w[f"{block}.mlp.W_out"] + w[f"{block}.mlp.b_out"]
            found[f"{block}.hook_mlp_out"] = out
            x = x + out
        found[f"{block}.hook_resid_post"] = x
    x = norm(x, "ln_final", rms=config.get("final_rms", False))
    return {**found, "logits": x @ w["unembed.W_U"] + w["unembed.b_U"]}
