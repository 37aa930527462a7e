"""Packing: documents of any length become contexts of one length, in a seeded order, train and held-out apart.

The ids of each document follow one separator; the documents of a split, in their shuffled order, form one stream;
the stream is cut into contexts, each begun by BOS if wanted. The last, incomplete context is dropped.

    stream     | sep a a a a a sep b b sep c c c c c ...
    contexts   bos sep a a a | bos a a sep b | bos b sep c c | ...
    documents    0   0 0 0 0 |   0 0 0   1 1 |   1 1   2 2 2 | ...

Ids wait in a file without a name until all documents are known, so memory holds 16 bytes a document and one chunk.
"""

import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from lmsae.config import Frozen
from lmsae.errors import NoSpaceError, NotEnoughTokens
from lmsae.text.documents import shuffle_rank
from lmsae.text.tokens import CHUNK_TOKENS, Split, TokenWriter

Ids = np.ndarray  # one-dimensional, of the smallest unsigned dtype that holds the vocabulary


class TokenizeConfig(Frozen):
    """How text becomes contexts of token ids."""

    context_size: int = Field(
        default=256, ge=2, description="Tokens in a context, BOS included; at most the model's maximum."
    )
    prepend_bos: bool = Field(default=True, description="Begin every context with the BOS token.")
    held_out_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the documents that are held out for evaluation, chosen by their names.",
    )
    tokens: int | None = Field(
        default=None, ge=1, description="At most so many training tokens, held-aside ones not counted; empty means all."
    )
    held_out_tokens: int = Field(default=200_000, ge=1, description="At most so many held-out tokens.")
    aside_tokens: int = Field(
        default=65_536,
        ge=1,
        description="Tokens at the head of the shuffled training text that are held aside to measure norms and to "
        "initialise dictionaries, and are never trained on; rounded up to whole contexts.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of the documents.")

    @model_validator(mode="after")
    def _limits_hold_a_context(self) -> Self:
        for name in ("tokens", "held_out_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < self.context_size:
                raise ValueError(f"{name} {limit} is less than one context of context_size {self.context_size}")
        if self.body < 2:
            raise ValueError(
                f"context_size {self.context_size} holds BOS and no token with a next one; wanted at least 3"
            )
        return self

    @property
    def body(self) -> int:
        """Tokens of a context that come from the text."""
        return self.context_size - self.prepend_bos

    @property
    def aside_contexts(self) -> int:
        return -(-self.aside_tokens // self.context_size)

    @property
    def most_train_contexts(self) -> int | None:
        """Contexts of the training split at most, held-aside ones included; None for no limit."""
        return None if self.tokens is None else self.aside_contexts + self.tokens // self.context_size

    @property
    def most_held_out_contexts(self) -> int:
        return self.held_out_tokens // self.context_size


class Spool:
    """The ids of one split's documents: written to disk as they come, read back as a shuffled stream."""

    def __init__(self, directory: Path, dtype: np.dtype, seed: int) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (closed by __exit__; nameless on disk)
        self._dtype, self._seed = dtype, seed
        self._ranks, self._lengths = array("Q"), array("Q")
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, name: str, ids: Ids) -> None:
        """Add a document: its name, which decides its place in the order, and its ids with their separator."""
        self._file.write(ids.astype(self._dtype).tobytes())
        self._ranks.append(shuffle_rank(self._seed, name))
        self._lengths.append(len(ids))
        self.tokens += len(ids)

    def stream(self, count: int, step: int) -> Iterator[tuple[Ids, Ids]]:
        """Yield the first `count` ids of the shuffled stream, `step` at a time, each with its document's index.

        The index counts the documents of this split in their shuffled order.
        """
        if not count:
            return
        self._file.flush()
        lengths = np.frombuffer(self._lengths, np.uint64).astype(np.int64)
        order = np.argsort(np.frombuffer(self._ranks, np.uint64), kind="stable")
        starts = (np.cumsum(lengths) - lengths)[order]  # where each document lies in the file, in shuffled order
        ends = np.cumsum(lengths[order])  # where each ends in the stream
        for begin in range(0, count, step):
            end = min(begin + step, count)
            first, last = np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1
            held = lengths[order[first:last]]
            skipped = begin - (ends[first] - held[0])
            span = slice(skipped, skipped + end - begin)
            pieces = [self._read(start, length) for start, length in zip(starts[first:last], held, strict=True)]
            yield np.concatenate(pieces)[span], np.repeat(np.arange(first, last), held)[span]

    def _read(self, start: int, length: int) -> Ids:
        """Ids by position; not mapped, so that a large file does not count as memory of this process."""
        size = self._dtype.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), length * size, start * size), self._dtype)


def contexts_of(spool: Spool, contexts: int, config: TokenizeConfig, bos: int | None) -> Iterator[tuple[Ids, Ids]]:
    """Yield blocks of ids and of document indices, each (contexts, context_size); BOS belongs to what follows it."""
    assert bos is not None or not config.prepend_bos, "Vocabulary.of refuses such a tokenizer"
    step = max(1, CHUNK_TOKENS // config.context_size) * config.body
    for ids, documents in spool.stream(contexts * config.body, step):
        ids, documents = ids.reshape(-1, config.body), documents.reshape(-1, config.body)
        if bos is not None and config.prepend_bos:
            ids = np.insert(ids, 0, bos, axis=1)
            documents = np.concatenate([documents[:, :1], documents], axis=1)
        yield ids, documents


def pack(train: Spool, held_out: Spool, config: TokenizeConfig, bos: int | None, writer: TokenWriter) -> dict[str, int]:
    """Write both splits; the counts of contexts and tokens that were written.

    Raises NotEnoughTokens when a split would be empty, NoSpaceError when the disk has not enough room.
    """
    counts = {
        "train": _at_most(train.tokens // config.body, config.most_train_contexts),
        "held_out": _at_most(held_out.tokens // config.body, config.most_held_out_contexts),
    }
    _require_enough(train, held_out, counts, config)
    _require_space(writer.directory, sum(counts.values()) * config.context_size * writer.bytes_per_token)
    splits: tuple[tuple[Split, Spool], ...] = (("train", train), ("held_out", held_out))
    for split, spool in splits:
        writer.write_split(split, counts[split], config.context_size, contexts_of(spool, counts[split], config, bos))
    return {
        "aside_contexts": config.aside_contexts,
        "train_contexts": counts["train"],
        "train_tokens": (counts["train"] - config.aside_contexts) * config.context_size,
        "held_out_contexts": counts["held_out"],
        "held_out_tokens": counts["held_out"] * config.context_size,
    }


def _at_most(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _require_enough(train: Spool, held_out: Spool, counts: dict[str, int], config: TokenizeConfig) -> None:
    size, aside = config.context_size, config.aside_contexts
    if counts["train"] <= aside:
        raise NotEnoughTokens(
            f"the training text holds {len(train):,} documents and {train.tokens:,} tokens, {counts['train']:,} "
            f"contexts of {size:,}; {aside:,} contexts are held aside (tokenize.aside_tokens {config.aside_tokens:,}) "
            "and at least one must be left to train on. Lower tokenize.aside_tokens or tokenize.context_size, or "
            "read more text."
        )
    if counts["held_out"] == 0:
        raise NotEnoughTokens(
            f"the held-out text holds {len(held_out):,} documents and {held_out.tokens:,} tokens, which is not one "
            f"context of {size:,}. Raise tokenize.held_out_fraction ({config.held_out_fraction}), lower "
            "tokenize.context_size, or read more documents."
        )


def _require_space(directory: Path, wanted: int) -> None:
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise NoSpaceError(
            f"{directory}: packed tokens may take {wanted / 1e9:,.2f} GB, the disk has {free / 1e9:,.2f} GB left. "
            "Free some (`lmsae gc`), lower tokenize.tokens, or set runtime.artifacts to another disk."
        )
