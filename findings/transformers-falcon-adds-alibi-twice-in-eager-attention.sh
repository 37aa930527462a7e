#!/usr/bin/env bash
# transformers 5.23.0: a Falcon with ALiBi (`alibi: true`, as falcon-rw has) computes other logits with eager attention
# than with sdpa, from the same weights in float32. The model puts the ALiBi bias into the attention mask for both, and
# the eager attention adds it once more.
#
# Seen: logits that differ by a good part of their standard deviation. With twice the slopes in the mask, sdpa gives what
# eager does. Without ALiBi both agree to rounding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0
cat > check.py <<'END'
from importlib.metadata import version

import torch
from transformers import FalconConfig, FalconForCausalLM
from transformers.models.falcon import modeling_falcon

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2,
    "parallel_attn": False, "multi_query": False, "bias": True, "bos_token_id": 1, "eos_token_id": 1,
}
single = modeling_falcon.build_alibi_tensor


def logits(alibi, attention, factor=1):
    torch.manual_seed(0)
    model = FalconForCausalLM(FalconConfig(**SIZES, alibi=alibi, attn_implementation=attention)).eval()
    modeling_falcon.build_alibi_tensor = lambda *args, **kwargs: factor * single(*args, **kwargs)
    with torch.inference_mode():
        return model(torch.arange(2, 34)[None], use_cache=False).logits


def apart(one, other):
    """The largest difference, in standard deviations of the logits."""
    return ((one - other).abs().max() / one.std()).item()


without = apart(logits(False, "sdpa"), logits(False, "eager"))
once = apart(logits(True, "sdpa"), logits(True, "eager"))
twice = apart(logits(True, "sdpa", 2), logits(True, "eager"))
print(f"eager differs from sdpa by {without:.2g} without ALiBi and by {once:.2g} with it, and by {twice:.2g} from sdpa "
      "with twice the slopes")
assert without < 1e-4
assert once > 0.1
assert twice < 1e-4
print(f"seen as described with transformers {version('transformers')}")
END
HF_HUB_OFFLINE=1 venv/bin/python -W ignore check.py
