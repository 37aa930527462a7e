"""Packing: documents of any length become contexts of one length, in a seeded order, train and held-out apart.

As a `stream`, the ids of each document follow one separator; the documents of a split, in their shuffled order, form
one stream; the stream is cut into contexts, each begun by BOS if wanted. The last, incomplete context is dropped.

    stream     | sep a a a a a sep b b sep c c c c c ...
    contexts   bos sep a a a | bos a a sep b | bos b sep c c | ...
    documents    0   0 0 0 0 |   0 0 0   1 1 |   1 1   2 2 2 | ...

By `document`, each context is the beginning of one document, without a separator. Of a mixture (mixing.py), each source
is packed by itself, and whole contexts are interleaved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from lmsae.config import Frozen
from lmsae.errors import NotEnoughTokens
from lmsae.runtime.disk import require_space
from lmsae.text.mixing import first_exhausted, interleave
from lmsae.text.spool import Spool
from lmsae.text.tokens import CHUNK_TOKENS, Split, TokenWriter

ChatTokens = Literal["content", "assistant", "all"]


class TokenizeConfig(Frozen):
    """How text becomes contexts of token ids."""

    context_size: int = Field(
        default=256, ge=2, description="Number of tokens in a context, BOS included. At most the model's maximum."
    )
    prepend_bos: bool = Field(default=True, description="Begin every context with the BOS token.")
    held_out_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the documents in the held-out split. The names of the documents decide which they are.",
    )
    packing: Literal["stream", "document"] = Field(
        default="stream",
        description="`stream`: documents are joined, with a separator before each (the tokenizer's EOS; chats have "
        "those of their template), and cut into contexts. `document`: each context is the beginning of one document, "
        "without a separator; documents shorter than a context are left out.",
    )
    mask_special: bool = Field(
        default=True,
        description="Leave special tokens (BOS, EOS, padding, role marks) out of training and scores. The model reads "
        "them all the same.",
    )
    chat_tokens: ChatTokens = Field(
        default="content",
        description="Tokens of chats (`dataset.messages_column`) that dictionaries train on and are scored on. "
        "`content`: what the messages say, without the words that the chat template puts around them. `assistant`: "
        "only what the assistant says. `all`: the words of the template too.",
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of training tokens, without the calibration split. Empty: all. Every source of a "
        "mixture must hold its share of them; if empty, a mixture ends where its first source does.",
    )
    held_out_tokens: int = Field(default=200_000, ge=1, description="Largest number of tokens in the held-out split.")
    calibration_tokens: int = Field(
        default=65_536,
        ge=1,
        description="Number of tokens in the calibration split, the head of the shuffled training text, rounded up to "
        "whole contexts. Norms and starting weights are measured on it, and no dictionary trains on it.",
    )
    seed: int = Field(default=0, ge=0, description="Seed for the order of the documents.")

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
    def calibration_contexts(self) -> int:
        return -(-self.calibration_tokens // self.context_size)

    @property
    def most_train_contexts(self) -> int | None:
        """Contexts of the training split at most, calibration ones included; None for no limit."""
        return None if self.tokens is None else self.calibration_contexts + self.tokens // self.context_size

    @property
    def most_held_out_contexts(self) -> int:
        return self.held_out_tokens // self.context_size


@dataclass(frozen=True)
class Spooled:
    """A source that is read: its share of the tokens, and the ids of both splits that wait to be packed."""

    name: str
    weight: float
    train: Spool
    held_out: Spool

    def of(self, split: Split) -> Spool:
        return self.train if split == "train" else self.held_out


def contexts_of(
    spools: Sequence[Spool], order: np.ndarray, config: TokenizeConfig, bos: int | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield blocks of ids, of document indices and, of masked spools, of masks, each (contexts, context_size).

    `order` says which spool each context comes from. Documents are counted through all spools, one after the other.
    BOS belongs to the document of what follows it.
    """
    step = max(1, CHUNK_TOKENS // config.context_size)
    first_document = np.cumsum([0, *map(len, spools)])
    used = np.zeros(len(spools), int)
    for begin in range(0, len(order), step):
        wanted = order[begin : begin + step]
        counts = np.bincount(wanted, minlength=len(spools))
        rows = []
        for number in np.flatnonzero(counts).tolist():
            span = (used[number] * config.body, (used[number] + counts[number]) * config.body)
            ids, documents, *mask = spools[number].read(*span)
            rows.append((ids, documents + first_document[number], *mask))
        used += counts
        back = np.argsort(np.argsort(wanted, kind="stable"))  # where each context of the block lies among the rows
        block = [np.concatenate(part).reshape(-1, config.body)[back] for part in zip(*rows, strict=True)]
        yield _begun(block, bos) if config.prepend_bos else tuple(block)


def pack(sources: Sequence[Spooled], config: TokenizeConfig, bos: int | None, writer: TokenWriter) -> dict[str, Any]:
    """Write both splits; the counts of contexts and tokens that were written, and of each source's contexts.

    Raises NotEnoughTokens when a split would be empty or a source of a mixture cannot supply its share of
    `tokenize.tokens`, NoSpaceError when the disk has not enough room.
    """
    order = {
        "train": _order(sources, "train", config, config.most_train_contexts),
        "held_out": _order(sources, "held_out", config, config.most_held_out_contexts),
    }
    _require_enough(sources, {split: len(contexts) for split, contexts in order.items()}, config)
    if config.most_train_contexts is not None and len(sources) > 1 and len(order["train"]) < config.most_train_contexts:
        raise _share_is_missing(sources, config, config.most_train_contexts)
    nbytes = sum(map(len, order.values())) * config.context_size * writer.bytes_per_token
    require_space(writer.directory, nbytes, "lower tokenize.tokens")
    splits: tuple[Split, ...] = ("train", "held_out")
    for split in splits:
        blocks = contexts_of([source.of(split) for source in sources], order[split], config, bos)
        writer.write_split(split, len(order[split]), config.context_size, blocks)
    used = {split: np.bincount(order[split], minlength=len(sources)).tolist() for split in splits}
    return {
        "calibration_contexts": config.calibration_contexts,
        "train_contexts": len(order["train"]),
        "train_tokens": (len(order["train"]) - config.calibration_contexts) * config.context_size,
        "held_out_contexts": len(order["held_out"]),
        "held_out_tokens": len(order["held_out"]) * config.context_size,
        "sources": [
            {
                "name": source.name,
                "weight": source.weight,
                "documents": len(source.train) + len(source.held_out),
                "train_contexts": used["train"][number],
                "held_out_contexts": used["held_out"][number],
            }
            for number, source in enumerate(sources)
        ],
    }


def _begun(block: Sequence[np.ndarray], bos: int | None) -> tuple[np.ndarray, ...]:
    """The parts of a block with BOS before each context."""
    assert bos is not None, "Vocabulary refuses to go without one"
    ids, documents, *mask = block
    repeated = np.concatenate([documents[:, :1], documents], axis=1)
    return np.insert(ids, 0, bos, axis=1), repeated, *(np.insert(part, 0, True, axis=1) for part in mask)


def _order(sources: Sequence[Spooled], split: Split, config: TokenizeConfig, most: int | None) -> np.ndarray:
    available = [source.of(split).tokens // config.body for source in sources]
    return interleave([source.weight for source in sources], available, most)


def _share_is_missing(sources: Sequence[Spooled], config: TokenizeConfig, wanted: int) -> NotEnoughTokens:
    weights = [source.weight for source in sources]
    available = [source.train.tokens // config.body for source in sources]
    number = first_exhausted(weights, available)
    share = np.bincount(interleave(weights, [wanted] * len(sources), wanted), minlength=len(sources))[number]
    possible = (len(interleave(weights, available, None)) - config.calibration_contexts) * config.context_size
    return NotEnoughTokens(
        f"dataset.name, {sources[number].name!r}: its share of the training tokens, {weights[number]:.4g} of them, is "
        f"{share * config.context_size:,} (tokenize.tokens is {config.tokens:,}, the calibration split comes on top); "
        f"its training text holds {available[number] * config.context_size:,}. Lower tokenize.tokens to "
        f"{max(possible, 0):,} or this source's weight, read more of it, or leave tokenize.tokens empty: then the "
        "mixture ends where its first source does."
    )


def _require_enough(sources: Sequence[Spooled], counts: dict[str, int], config: TokenizeConfig) -> None:
    size, calibration = config.context_size, config.calibration_contexts
    documents = {split: sum(len(source.of(split)) for source in sources) for split in ("train", "held_out")}
    tokens = {split: sum(source.of(split).tokens for source in sources) for split in ("train", "held_out")}
    if counts["train"] <= calibration:
        raise NotEnoughTokens(
            f"the training text holds {documents['train']:,} documents and {tokens['train']:,} tokens, "
            f"{counts['train']:,} contexts of {size:,}; the calibration split takes {calibration:,} of them "
            f"(tokenize.calibration_tokens {config.calibration_tokens:,}) and at least one must be left to train on. "
            "Lower tokenize.calibration_tokens or tokenize.context_size, or read more text."
        )
    if counts["held_out"] == 0:
        raise NotEnoughTokens(
            f"the held-out text holds {documents['held_out']:,} documents and {tokens['held_out']:,} tokens, which is "
            f"not one context of {size:,}. Raise tokenize.held_out_fraction ({config.held_out_fraction}), lower "
            "tokenize.context_size, or read more documents."
        )
