"""A miniature of everything: a tiny random model, a small text and sweeps of a few rows, made in seconds.

All names in it are relative, so its keys are the same on every machine and in every folder.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "model": {"name": "model"},
    "dataset": {"name": "text"},
    "tokenize": {"context_size": 32, "calibration_tokens": 1024, "held_out_tokens": 2048, "held_out_fraction": 0.2},
    "sae": {"d_sae": 64},
    "train": {"tokens": 8192, "batch_size": 256, "window_tokens": 2048, "lr": 1e-3, "dead_threshold": 2048},
    "eval": {"tokens": 1024},
    "runtime": {"device": "cpu", "threads": 1, "progress": False},
}
HERE, THERE = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
ROWS = [
    {"name": "top", "sae.hook_point": HERE, "sae.architecture": "topk", "sae.k": "4"},
    {"name": "batch", "sae.hook_point": HERE, "sae.architecture": "batchtopk", "sae.k": "4"},
    {"name": "plain", "sae.hook_point": HERE, "sae.architecture": "standard_new"} | {"sae.l1_coefficient": "1"},
    {"name": "jump", "sae.hook_point": THERE, "sae.architecture": "jumprelu"} | {"sae.l0_coefficient": "0.1"},
]

PLACES = {
    "sae": {"sae.hook_point": HERE},
    "crosscoder": {"sae.hook_point": f"{HERE} {THERE}"},
    "clt": {
        "sae.hook_point_in": f"{HERE} {THERE}",
        "sae.hook_point_out": "blocks.0.hook_mlp_out blocks.1.hook_mlp_out",
    },
    "molt": {"sae.hook_point_in": HERE, "sae.hook_point_out": THERE, "sae.molt_ranks": "4x1 2x1"},
}
"""Where a geometry reads and writes in the miniature; the others as a molt."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


def row_of(architecture: str, **cells: str) -> dict[str, str]:
    """A row of an architecture of the catalog, named after it: where it reads, and what has no default."""
    from lmsae.planning.catalog import CATALOG, PIECES

    entry = CATALOG[architecture]
    parts = [("geometry", entry.geometry), ("act_fn", entry.act_fn), *(("losses", loss) for loss in entry.losses)]
    fields = {name: info for part, kind in parts for name, info in PIECES[part][kind].model_fields.items()}
    needs = {f"sae.{name}": "4" if name == "k" else "0.1" for name, info in fields.items() if info.is_required()}
    elsewhere = {name: PLACES["molt"][name] for name in ("sae.hook_point_in", "sae.hook_point_out")}
    where = PLACES.get(entry.geometry, elsewhere)
    return {"name": architecture, "sae.architecture": architecture, **where, **needs, **cells}


def write_config(folder: Path, **changes: dict[str, Any]) -> None:
    """Write config/config.yaml: the miniature's, with sections changed field by field."""
    (folder / "config").mkdir(exist_ok=True)
    config = {name: {**CONFIG.get(name, {}), **changes.get(name, {})} for name in {**CONFIG, **changes}}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))


def write_sweep(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write config/sweep.tsv with a column for every key that any row has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "sweep.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))


def write_text(folder: Path, documents: int = 60) -> None:
    """Write text/*.txt: documents of words drawn at random, about 500 characters each."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(200)]
    (folder / "text").mkdir()
    for number in range(documents):
        (folder / "text" / f"{number:03}.txt").write_text(" ".join(draw.choices(words, k=90)) + "\n")


def write_model(folder: Path, name: str = "model", seed: int = 0) -> None:
    """Write model/: a GPT-NeoX of two layers, 16 wide, with random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": 0}
    vocabulary |= {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder / name)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = GPTNeoXConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.3, **sizes)
    GPTNeoXForCausalLM(config).save_pretrained(folder / name)


def make_until(stage: str) -> None:
    """Plan the sweep of the working directory and make all stages up to one. The report, which comes last, takes longer
    to draw than all others take together."""
    from lmsae.cli import main
    from lmsae.stages import STAGES

    names = list(STAGES)
    for command in ("plan", *names[: names.index(stage) + 1]):
        assert main([command]) == 0


def keys(folder: Path, stage: str) -> list[str]:
    """The keys that the plan on disk wants of a stage, in the order of the rows."""
    passes = json.loads((folder / "artifacts" / "plan" / f"{stage}.json").read_text())["passes"]
    return [reference.removeprefix(f"{stage}/") for group in passes for reference in group]


def manifests(folder: Path) -> dict[str, bytes]:
    """The manifest of every finished artifact, by its reference."""
    found = (folder / "artifacts").glob("*/*/manifest.json")
    return {path.parent.relative_to(folder / "artifacts").as_posix(): path.read_bytes() for path in found}
