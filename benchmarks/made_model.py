"""A small Llama, trained for a while on the built-in text: a model of another family than the built-in one.

    python benchmarks/made_model.py build/made-llama

It has what the built-in GPT-NeoX lacks: RMSNorm, gated MLPs, shared keys, no biases. The tokenizer is the built-in one.
Documents that `dataset.held_out_fraction` 0.1 holds out stay unseen.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from lmsae.lm.resolving import BUILTIN, STDLIB
from lmsae.text.documents import is_held_out
from lmsae.text.stdlib import stdlib_documents

CONTEXT = 256


def contexts(tokenizer: Tokenizer, generator: torch.Generator) -> torch.Tensor:
    """All training text as shuffled contexts (contexts, 256), each behind one end-of-text token."""
    documents = [one.text for one in stdlib_documents() if not is_held_out(one.name, 0.1)]
    stream = np.concatenate([[0, *one.ids] for one in tokenizer.encode_batch(documents)])
    count = len(stream) // (CONTEXT - 1)
    body = stream[: count * (CONTEXT - 1)].reshape(count, CONTEXT - 1)
    rows = torch.from_numpy(np.concatenate([np.zeros((count, 1), np.int64), body], axis=1))
    return rows[torch.randperm(count, generator=generator)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(BUILTIN[STDLIB] / "tokenizer.json"))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=arguments.width,
        intermediate_size=3 * arguments.width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rows = contexts(tokenizer, torch.Generator().manual_seed(0))
    batch = 16
    steps = arguments.tokens // (batch * CONTEXT)
    started = time.time()
    for step in range(steps):
        at = step * batch % (len(rows) - batch)
        progress = (step + 1) / (steps + 1)
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * min(1.0, progress / 0.02, (1 - progress) / 0.5)
        loss = model(input_ids=rows[at : at + batch], labels=rows[at : at + batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} of {steps}, loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    model.save_pretrained(arguments.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILTIN[STDLIB] / name, arguments.out / name)


if __name__ == "__main__":
    main()
