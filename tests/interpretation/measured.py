"""A payload of the stage `features` by its schema, of numbers and tokens that a test chooses."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmsae.interpretation.schema import (
    CONTEXTS,
    CONTEXTS_SCHEMA,
    GROUP_LATENTS,
    INFO,
    LATENTS,
    LATENTS_SCHEMA,
    TOP,
    Info,
    Location,
    quantile_kind,
)

HOSTILE = ["<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(2)>", "&amp;", "\u202egnp", "\u2028"]
"""Tokens that a page must show and never obey."""
STRANGE = ["\n", "\t", "  ", "", "\u0301", "שלום", " مرحبا", "👩‍👩‍👧", "\ufeff", "\x00", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢"]
PLAIN = [" the", " of", "def", " return", "(", ")", " self", ".", " is", " not", " None", " for", "import", " torch"]
WORDS = [*PLAIN, *STRANGE, *HOSTILE]
COUNTED, CONTEXT_SIZE, BINS, QUANTILES, POSITIONS = 10_000, 64, 12, 3, (0, 16, 32, 48, 64)


def info(latents: int, **changes: Any) -> Info:
    """What holds for all latents."""
    here = (Location(model=0, hook_point="blocks.0.hook_resid_post"),)
    known: dict[str, Any] = {
        "schema_version": 1,
        "latents": latents,
        "d_sae": latents,
        "geometry": "sae",
        "act_fn": "topk",
        "signed": False,
        "models": ("tiny-lm",),
        "reads": here,
        "writes": here,
        "dataset": "some-text",
        "split": "held_out",
        "contexts": 160,
        "context_size": CONTEXT_SIZE,
        "tokens": COUNTED,
        "histogram_bins": BINS,
        "quantiles": QUANTILES,
        "position_bins": POSITIONS,
        "position_tokens": (2500,) * 4,
        "logits": "by the unembedding",
        "companions": "100 contexts",
    }
    return Info(**known | changes)


def latent(number: int, of: int = 100, **changes: Any) -> dict[str, Any]:
    """A row of latents.parquet. Every tenth latent is dead, and the last of each ten fires most."""
    draw, active = random.Random(number), (number % 10) ** 4 // 3
    words = draw.sample(range(len(PLAIN)), 4)
    top = {"active": 3, "rate": 0.25, "mean": 1.5}
    known = {
        "latent": number,
        "active_tokens": active,
        "firing_rate": active / COUNTED,
        "mean_active": 0.5 + number % 7 if active else None,
        "max_activation": 2.0 + number % 13 if active else 0.0,
        "histogram": [active // 2**bin for bin in range(1, BINS + 1)],
        "position_rate": [active / COUNTED * size for size in (0.5, 1.0, 1.5, 1.0)],
        "decoder_norm": 1 + number / of,
        "encoder_norm": 2 + number / of,
        "write_norms": [1.0],
        "read_norms": [1.0],
        "top_tokens": [{"token": word, "text": PLAIN[word], **top} for word in words] if active else [],
        "promoted": [{"token": word, "text": PLAIN[word], "logit": 1 / (1 + word)} for word in words],
        "suppressed": [{"token": word, "text": PLAIN[word], "logit": -1 / (1 + word)} for word in words],
        "neighbors": [{"latent": (number + step) % of, "cosine": 0.9 / step} for step in (1, 2, 3)],
        "companions": [{"latent": (number + step) % of, "phi": 0.4 / step} for step in (5, 7)],
    }
    return known | changes


def contexts(number: int, words: list[str] = WORDS, pieces: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """The rows of contexts.parquet of a latent: some pieces of text of each kind, in which every word stands once."""
    kinds = [TOP, *(quantile_kind(bin) for bin in range(QUANTILES))]
    return [_piece(number, kind, rank, words) | changes for kind in kinds for rank in range(pieces)]


def _piece(number: int, kind: str, rank: int, words: list[str]) -> dict[str, Any]:
    peak = (number + rank) % len(words)
    return {
        "latent": number,
        "kind": kind,
        "rank": rank,
        "activation": 2.0 + number % 13,
        "document": f"docs/<script>{number}.py",
        "document_token": 17,
        "context": rank,
        "position": 5 + peak,
        "start": 5,
        "tokens": list(range(len(words))),
        "texts": words,
        "activations": [
            2.0 + number % 13 if place == peak else (0.5 if place == peak + 1 else 0.0) for place in range(len(words))
        ],
        "source_positions": None,
        "source_weights": None,
    }


def write_measured(
    folder: Path,
    latents: list[dict[str, Any]],
    found: Iterable[dict[str, Any]],
    explanations: list[str | None] | None = None,
    **changes: Any,
) -> Path:
    """Write the three files into a folder, and return it. The pieces of text found come by latent."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO).write_text(info(len(latents), **changes).model_dump_json(indent=1))
    table = pa.Table.from_pylist(latents, schema=LATENTS_SCHEMA)
    if explanations is not None:
        table = table.append_column("explanation", pa.array(explanations, pa.string()))
    pq.write_table(table, folder / LATENTS, row_group_size=GROUP_LATENTS)
    with pq.ParquetWriter(folder / CONTEXTS, CONTEXTS_SCHEMA) as writer:
        found = iter(found)
        waiting = next(found, None)
        for begin in range(0, len(latents), GROUP_LATENTS):
            own = []
            while waiting and waiting["latent"] < begin + GROUP_LATENTS:
                own.append(waiting)
                waiting = next(found, None)
            writer.write_table(pa.Table.from_pylist(own, schema=CONTEXTS_SCHEMA), row_group_size=max(1, len(own)))
    return folder
