#!/usr/bin/env bash
# transformer-lens 3.9.0: TransformerBridge.boot_transformers of a model with a vision part runs a package installer.
#
# The bridge asks transformers for the model's processor. Where that cannot be had for any reason (here: the folder holds
# a model and a tokenizer, and no image processor) and torchvision is not installed, it starts `uv pip install torchvision
# -q`, or pip where there is no uv, in a process of its own, without asking and without a word. Later code goes on whether
# or not that worked. pip resolves torchvision freely, so where torch is an older or a CPU-only version it is replaced,
# under the running process and all others of that environment: seen with torch 2.13.0+cpu, which became 2.14.1+cu130.
# Here a uv of our own stands first in PATH. It notes what it was asked for and installs nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 transformer-lens==3.9.0
mkdir bin
printf '#!/bin/sh\necho "$@" >> "%s/asked.txt"\nexit 1\n' "$folder" > bin/uv
chmod +x bin/uv
cat > check.py <<'END'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

text = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=64)
vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
torch.manual_seed(0)
model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1,
                                                    image_token_index=49, boi_token_index=48, eoi_token_index=47))
model.save_pretrained("model")
inner = Tokenizer(models.WordLevel({f"w{number}": number for number in range(50)}, unk_token="w0"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="w1", eos_token="w1", unk_token="w0").save_pretrained("model")
loaded = Gemma3ForConditionalGeneration.from_pretrained("model")
bridge = TransformerBridge.boot_transformers("model", device="cpu", hf_model=loaded)
print("the bridge is there:", type(bridge).__name__, "with", len(bridge.blocks), "layers")
END
HF_HUB_OFFLINE=1 PATH="$folder/bin:$PATH" venv/bin/python -W ignore check.py
echo "the installer was asked for: $(cat asked.txt)"
[ "$(cat asked.txt)" = "pip install torchvision -q" ]
