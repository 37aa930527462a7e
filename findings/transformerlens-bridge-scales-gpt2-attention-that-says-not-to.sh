#!/usr/bin/env bash
# transformer-lens 3.9.0 with transformers 5.23.0: TransformerBridge divides GPT-2's attention scores by sqrt(d_head)
# also where the model's config says scale_attn_weights: false. Nothing is said, and the logits are another model's.
#
# A random GPT-2 of two layers is built from a config with that setting (transformers follows it) and
# wrapped by the bridge. Seen: with scale_attn_weights true, the bridge's logits are transformers' own to 1e-5. With
# false, they differ by three standard deviations of the logits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 transformer-lens==3.9.0
cat > check.py <<'END'
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

words = {f"w{number}": number for number in range(50)}
inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w1", eos_token="w1", unk_token="w0").save_pretrained("tokenizer")
ids = torch.arange(2, 34)[None]
off = {}
for scaled in (True, False):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=64, n_layer=2, n_head=2, scale_attn_weights=scaled)
    config.initializer_range = 0.2
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval()
    folder = f"model-{scaled}"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained("tokenizer").save_pretrained(folder)
    with torch.inference_mode():
        theirs = model(ids).logits
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", hf_model=GPT2LMHeadModel.from_pretrained(folder))
        logits = bridge(ids, return_type="logits")
    off[scaled] = ((logits - theirs).abs().max() / theirs.std()).item()
    print(f"scale_attn_weights {scaled}: largest difference of logits {off[scaled]:.2g} of their standard deviation")
assert off[True] < 1e-4, off
assert off[False] > 0.1, off
print(f"seen as described with transformer-lens {version('transformer-lens')}, transformers {version('transformers')}")
END
HF_HUB_OFFLINE=1 venv/bin/python -W ignore check.py
