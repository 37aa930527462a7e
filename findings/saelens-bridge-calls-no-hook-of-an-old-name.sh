#!/usr/bin/env bash
# SAELens 6.54.12 with transformer-lens 3.9.0: SAETransformerBridge.run_with_hooks takes a hook on blocks.N.hook_resid_post
# and never calls it. It raises nothing and warns of nothing. TransformerBridge itself, the class it is derived from,
# calls the same hook on the same model.
#
# A random GPT-2 of two layers is wrapped by both. Hook points are given by the old names that SAELens' own dictionaries
# carry as hook_name. Seen: TransformerBridge calls each hook once. SAETransformerBridge calls none of hook_resid_post,
# hook_resid_pre and hook_mlp_out, and its run_with_cache has no such name. run_with_saes of the same object does find
# it. After enable_compatibility_mode(no_processing=True) the hooks are called, but for the one where run_with_saes has
# put an SAE before: that is not called any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 transformer-lens==3.9.0 sae-lens==6.54.12
cat > check.py <<'END'
from importlib.metadata import version

import torch
from sae_lens import SAETransformerBridge, StandardSAE, StandardSAEConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

NAMES = ("blocks.1.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out")
words = {f"w{number}": number for number in range(50)}
inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=64, n_layer=2, n_head=2)).save_pretrained("model")
PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w1", eos_token="w1", unk_token="w0").save_pretrained("model")
ids = torch.arange(2, 34)[None]


def boot(kind):
    return kind.boot_transformers("model", device="cpu", hf_model=GPT2LMHeadModel.from_pretrained("model"))


def called(bridge):
    """The names whose hook was called."""
    seen = []
    hooks = [(name, lambda value, hook, name=name: seen.append(name)) for name in NAMES]
    with torch.inference_mode():
        bridge.run_with_hooks(ids, fwd_hooks=hooks)
    return tuple(name for name in NAMES if name in seen)


plain, theirs = boot(TransformerBridge), boot(SAETransformerBridge)
print("TransformerBridge calls", called(plain))
print("SAETransformerBridge calls", called(theirs))
assert called(plain) == NAMES
assert called(theirs) == ()

config = StandardSAEConfig(d_in=64, d_sae=128, dtype="float32", device="cpu")
config.metadata.hook_name = NAMES[0]
sae = StandardSAE(config)
with torch.inference_mode():
    moved = (theirs.run_with_saes(ids, saes=[sae]) - theirs(ids)).abs().max().item()
    _, cache = theirs.run_with_cache(ids)
print(f"run_with_saes at {NAMES[0]} moves its logits by {moved:.2g}; run_with_cache has the name: {NAMES[0] in cache}")
assert moved > 0
assert NAMES[0] not in cache

fresh = boot(SAETransformerBridge)
for bridge in (fresh, theirs):
    bridge.enable_compatibility_mode(no_processing=True)
print("in compatibility mode it calls", called(fresh), "and, after run_with_saes,", called(theirs))
assert called(fresh) == NAMES
assert called(theirs) == NAMES[1:]
print("seen as described with", *(f"{name} {version(name)}" for name in ("sae-lens", "transformer-lens", "transformers")))
END
HF_HUB_OFFLINE=1 venv/bin/python -W ignore check.py
