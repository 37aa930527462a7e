"""Make the built-in language model again: tokenizer, training, held-out loss and baselines, model card.

    python recipes/stdlib_4m/train.py --out lmsae/lm/stdlib-4m

The text is the standard library of the running interpreter. Its test packages are extra training text. The hash of a
document's name decides if it is held out, exactly as in the `tokenize` stage. So the SAE pipeline evaluates on text
that the model never saw. Training sees windows of 255 tokens after a begin-of-text token, as in packed contexts.
"""

import argparse
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from lmsae.text.documents import digest_of, is_held_out
from lmsae.text.stdlib import is_test, stdlib_documents

VOCABULARY, CONTEXT, HELD_OUT = 4096, 256, 0.1
END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts):
    """A byte-level BPE tokenizer of `VOCABULARY` tokens, end-of-text as token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )


def encode(tokenizer, documents):
    """Token ids of each document, behind one end-of-text token."""
    encodings = tokenizer.backend_tokenizer.encode_batch([d.text for d in documents])
    return [np.array([0, *encoding.ids], dtype=np.int64) for encoding in encodings]


def windows(documents, generator):
    """One epoch: documents shuffled into a stream, cut into windows of 255 from a random start, end-of-text first."""
    order = torch.randperm(len(documents), generator=generator).tolist()
    stream = np.concatenate([documents[i] for i in order])
    start = int(torch.randint(CONTEXT - 1, (), generator=generator))
    count = (len(stream) - start) // (CONTEXT - 1)
    body = stream[start : start + count * (CONTEXT - 1)].reshape(count, CONTEXT - 1)
    rows = torch.from_numpy(np.concatenate([np.zeros((count, 1), np.int64), body], axis=1))
    return rows[torch.randperm(count, generator=generator)]


def build_model():
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoXForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("attention.dense.weight") or name.endswith("dense_4h_to_h.weight"):
            torch.nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.num_hidden_layers))
    return model


def optimizers(model, muon_lr, adam_lr):
    """Muon on the hidden matrices, AdamW on embeddings, norms and biases."""
    matrices = [w for n, w in model.named_parameters() if w.ndim == 2 and "embed" not in n]
    rest = [w for n, w in model.named_parameters() if w.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adam]


def lr_factor(progress):
    """Linear warm-up over 1 %, constant, then linear decay to 0 over the last half."""
    return min(1.0, progress / 0.01, (1 - progress) / 0.5)


@torch.no_grad()
def held_out_loss(model, rows):
    """Mean next-token loss in nats over `rows` of (contexts, 256), float32."""
    model.eval()
    total = sum(model(input_ids=b, labels=b).loss.item() * len(b) for b in rows.split(32))
    model.train()
    return total / len(rows)


def contiguous(documents):
    """Contexts of a held-out stream, documents in the order of their names."""
    stream = np.concatenate(documents)
    count = len(stream) // (CONTEXT - 1)
    body = stream[: count * (CONTEXT - 1)].reshape(count, CONTEXT - 1)
    return torch.from_numpy(np.concatenate([np.zeros((count, 1), np.int64), body], axis=1))


def baselines(train, rows):
    """Unigram, bigram and trigram loss in nats on `rows`, each order interpolated with the one below.

    p_n(c | ctx) = (count(ctx c) + a p_{n-1}(c)) / (count(ctx) + a): Dirichlet smoothing with a = 1, 4, 4 pseudo-counts.
    """
    stream = np.concatenate(train)
    targets, first, second = rows[:, 2:].numpy().ravel(), rows[:, 1:-1].numpy().ravel(), rows[:, :-2].numpy().ravel()
    uni = np.bincount(stream, minlength=VOCABULARY).astype(float)
    p1 = (uni[targets] + 1 / VOCABULARY) / (uni.sum() + 1)
    losses = {"unigram": -np.log(p1).mean()}
    below, context_train, context_eval = p1, np.zeros_like(stream[2:]), np.zeros_like(targets)
    for name, back_train, back_eval in (
        ("bigram", stream[1:-1], first),
        ("trigram", stream[:-2], second),
    ):
        context_train = context_train + back_train * (VOCABULARY if name == "trigram" else 1)
        context_eval = context_eval + back_eval * (VOCABULARY if name == "trigram" else 1)
        pair = count_of(context_train * VOCABULARY + stream[2:], context_eval * VOCABULARY + targets)
        context = count_of(context_train, context_eval)
        below = (pair + 4.0 * below) / (context + 4.0)
        losses[name] = -np.log(below).mean()
    return {name: float(loss) for name, loss in losses.items()}


def count_of(values, queries):
    """How often each of `queries` occurs among `values`."""
    unique, counts = np.unique(values, return_counts=True)
    at = np.searchsorted(unique, queries).clip(max=len(unique) - 1)
    return np.where(unique[at] == queries, counts[at], 0)


def save_state(path, model, optimizers, generator, rows, used, step):
    """Write what the next steps depend on, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "rows": rows,
        "used": used,
        "step": step,
    }
    torch.save(state, path.with_suffix(".draft"))
    path.with_suffix(".draft").replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=24_000_000)
    parser.add_argument("--batch", type=int, default=16, help="contexts a step")
    parser.add_argument("--muon-lr", type=float, default=5e-3)
    parser.add_argument("--adam-lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="file to go on from if it is there, written every 250 steps")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)

    documents = list(stdlib_documents(with_tests=True))
    plain = [d for d in documents if not is_test(d.name)]
    train_documents = [d for d in documents if not is_held_out(d.name, HELD_OUT)]
    tokenizer = train_tokenizer([d.text for d in train_documents if not is_test(d.name)])
    library = encode(tokenizer, [d for d in train_documents if not is_test(d.name)])
    tests = encode(tokenizer, [d for d in train_documents if is_test(d.name)])
    held_out = contiguous(encode(tokenizer, [d for d in plain if is_held_out(d.name, HELD_OUT)]))
    size = {"library": sum(map(len, library)), "tests": sum(map(len, tests)), "held_out": held_out.numel()}
    print("tokens", size, flush=True)

    model = build_model()
    chosen = optimizers(model, arguments.muon_lr, arguments.adam_lr)
    base = [group["lr"] for o in chosen for group in o.param_groups]
    steps = arguments.tokens // (arguments.batch * CONTEXT)
    rows, used, first, started = torch.empty(0, CONTEXT, dtype=torch.long), 0, 0, time.time()
    if arguments.state and arguments.state.exists():
        state = torch.load(arguments.state, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        generator.set_state(state["generator"])
        rows, used, first = state["rows"], state["used"], state["step"] + 1
    for step in range(first, steps):
        if used + arguments.batch > len(rows):
            rows, used = windows([*library, *library, *tests], generator), 0
        batch, used = rows[used : used + arguments.batch], used + arguments.batch
        factor = lr_factor((step + 1) / (steps + 1))
        for group, lr in zip((g for o in chosen for g in o.param_groups), base, strict=True):
            group["lr"] = lr * factor
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0 or step == steps - 1:
            done = (step + 1) * arguments.batch * CONTEXT
            rate = (step + 1 - first) * arguments.batch * CONTEXT / (time.time() - started)
            line = f"step {step} tokens {done} loss {loss.item():.3f} tokens/s {rate:.0f}"
            if step % 500 == 0 or step == steps - 1:
                line += f" held_out {held_out_loss(model, held_out[:256]):.4f}"
            print(line, flush=True)
        if arguments.state and step % 250 == 0:
            save_state(arguments.state, model, chosen, generator, rows, used, step)

    model.half().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    saved = GPTNeoXForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    numbers = {"model": held_out_loss(saved, held_out), **baselines([*library, *tests], held_out)}
    print(numbers, flush=True)
    (arguments.out / "README.md").write_text(
        model_card(saved, tokenizer, arguments, size, numbers, digest_of(documents))
    )


def model_card(model, tokenizer, arguments, size, numbers, digest):
    """The README beside the weights: what it is, how good it is, and samples."""
    samples = []
    for prompt in ("def read_file(path):\n", "class Queue:\n    ", "The return statement"):
        ids = torch.tensor([[0, *tokenizer(prompt).input_ids]])
        torch.manual_seed(0)
        out = model.generate(ids, max_new_tokens=64, do_sample=True, temperature=0.7, top_k=40, pad_token_id=0)
        samples.append(tokenizer.decode(out[0, 1:], skip_special_tokens=True))
    table = "\n".join(f"| {name} | {loss:.3f} |" for name, loss in sorted(numbers.items(), key=lambda p: -p[1]))
    shown = "\n\n".join("```text\n" + s.replace("```", "'''").strip() + "\n```" for s in samples)
    return f"""# stdlib-4m, the built-in language model

A GPT-NeoX model of 4 layers x 256 ({model.num_parameters():,} parameters, tied embeddings, context {CONTEXT}) with a
byte-level BPE tokenizer of {VOCABULARY:,} tokens, trained from scratch on Python's standard library so that lmsae has a
real language model where no hub can be reached. It is a test bench for dictionaries, not a code assistant.

## Training

`python recipes/stdlib_4m/train.py --out lmsae/lm/stdlib-4m` makes it again. {arguments.tokens:,} tokens in steps of
{arguments.batch * CONTEXT:,}, Muon on the hidden matrices (lr {arguments.muon_lr:g}), AdamW on the rest (lr
{arguments.adam_lr:g}), 1 % warm-up, linear decay over the last half, bfloat16 autocast, seed {arguments.seed}; about
an hour of two cores. Python {platform.python_version()}: {size["library"]:,} tokens of
library sources and pydoc topics (seen twice an epoch) and {size["tests"]:,} of its test packages (once). Digest of the
documents: `{digest[:16]}`. Weights are stored as float16.

## Held-out loss

Nats a token on {size["held_out"]:,} tokens of library documents held out by the hash of their names (a tenth; the test
packages of the same library were trained on, and may quote what they test). Baselines are counted on the training
text, each order interpolated with the one below it.

| model | loss |
|---|---|
{table}

## Samples

Temperature 0.7, top-k 40.

{shown}
"""


if __name__ == "__main__":
    main()
