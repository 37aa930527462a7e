"""Othello-GPT from TransformerLens's weights to a transformers model: python convert.py synthetic_model.pth othello-gpt

TransformerLens keeps heads apart, has folded the weights of norms into what follows them, and has a bias behind the
unembedding. transformers' GPT-2 has no such bias, but one of its last norm, which can do the same: there are more
dimensions than moves.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel


def convert(weights: Mapping[str, Tensor]) -> GPT2LMHeadModel:
    """The GPT-2 that computes what a HookedTransformer with normalization_type LNPre and act_fn gelu does.

    `weights` is its state dict. Probabilities are the same up to rounding, and so are all hook points.
    """
    d_vocab, d_model = weights["embed.W_E"].shape
    n_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=len(weights["pos_embed.W_pos"]),
        n_embd=d_model,
        n_layer=n_layers,
        n_head=len(weights["blocks.0.attn.W_Q"]),
        n_inner=weights["blocks.0.mlp.W_in"].shape[1],
        activation_function="gelu",
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    converted = {
        "transformer.wte.weight": weights["embed.W_E"],
        "transformer.wpe.weight": weights["pos_embed.W_pos"],
        "transformer.ln_f.weight": torch.ones(d_model),
        "transformer.ln_f.bias": _bias_before(weights["unembed.W_U"], weights["unembed.b_U"]),
        "lm_head.weight": weights["unembed.W_U"].T,
    }
    for layer in range(n_layers):
        block = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"blocks.{layer}.")}
        converted |= {f"transformer.h.{layer}.{name}": value for name, value in _layer(block, d_model).items()}
    model.load_state_dict({name: value.contiguous() for name, value in converted.items()})
    return model


def _layer(block: Mapping[str, Tensor], d_model: int) -> dict[str, Tensor]:
    """A layer of GPT-2; its projections stand as (in, out), heads side by side."""
    inward = [block[f"attn.W_{part}"].permute(1, 0, 2).reshape(d_model, -1) for part in "QKV"]
    return {
        "ln_1.weight": torch.ones(d_model),
        "ln_1.bias": torch.zeros(d_model),
        "attn.c_attn.weight": torch.cat(inward, dim=1),
        "attn.c_attn.bias": torch.cat([block[f"attn.b_{part}"].flatten() for part in "QKV"]),
        "attn.c_proj.weight": block["attn.W_O"].flatten(0, 1),
        "attn.c_proj.bias": block["attn.b_O"],
        "ln_2.weight": torch.ones(d_model),
        "ln_2.bias": torch.zeros(d_model),
        "mlp.c_fc.weight": block["mlp.W_in"],
        "mlp.c_fc.bias": block["mlp.b_in"],
        "mlp.c_proj.weight": block["mlp.W_out"],
        "mlp.c_proj.bias": block["mlp.b_out"],
    }


def _bias_before(unembedding: Tensor, bias: Tensor) -> Tensor:
    """b with b @ unembedding = bias, up to a number that all logits share and no probability depends on.

    Centered on both sides, so that an unembedding that TransformerLens has centered, of a rank one less, will do.
    """
    centered = (unembedding - unembedding.mean(dim=1, keepdim=True)).double()
    return (torch.linalg.pinv(centered.T) @ (bias - bias.mean()).double()).to(bias.dtype)


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    convert(torch.load(source, map_location="cpu", weights_only=True)).save_pretrained(target)
