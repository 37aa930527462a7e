#!/usr/bin/env bash
# transformers 5.23.0: Gemma3TextConfig documents attn_logit_softcapping and keeps it in config.json, and Gemma 3's
# forward pass never uses it. Gemma 2 does, with the same config field.
#
# Two random models of the same weights, one without a cap and one with a cap of 2 on attention scores. Seen: the logits
# of Gemma 2 (eager) move by more than their standard deviation; those of Gemma 3, eager and sdpa, do not move by a bit.
# So other implementations that read the field, as TransformerLens' bridge does, disagree with transformers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0
cat > check.py <<'END'
from importlib.metadata import version

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "query_pre_attn_scalar": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "final_logit_softcapping": None, "initializer_range": 0.3,
}


def moved(config_class, model_class, attention):
    """The largest change of logits by a cap of 2, in standard deviations of the logits."""
    logits = []
    for cap in (None, 2.0):
        torch.manual_seed(0)
        config = config_class(**SIZES, attn_logit_softcapping=cap, attn_implementation=attention)
        model = model_class(config).eval()
        assert model.config.to_dict()["attn_logit_softcapping"] == cap
        with torch.inference_mode():
            logits.append(model(torch.arange(2, 34)[None]).logits)
    return ((logits[0] - logits[1]).abs().max() / logits[0].std()).item()


assert "softcapping on the attention scores" in Gemma3TextConfig.__doc__
two = moved(Gemma2Config, Gemma2ForCausalLM, "eager")
three = {attention: moved(Gemma3TextConfig, Gemma3ForCausalLM, attention) for attention in ("eager", "sdpa")}
print(f"a cap of 2 moves the logits of Gemma 2 by {two:.2g} and of Gemma 3 by {three} standard deviations")
assert two > 1
assert three == {"eager": 0.0, "sdpa": 0.0}
print(f"seen as described with transformers {version('transformers')}")
END
HF_HUB_OFFLINE=1 venv/bin/python -W ignore check.py
