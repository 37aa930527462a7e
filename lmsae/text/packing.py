"""Packing: documents of any length become contexts of one length, in a seeded order, train and held-out apart.

With `stream`, a separator stands before the ids of each document. The documents of a split, in their shuffled order,
form one stream. The stream is cut into contexts, and BOS stands at the head of each if wanted. The last, incomplete
context is dropped.

    stream     | sep a a a a a sep b b sep c c c c c ...
    contexts   bos sep a a a | bos a a sep b | bos b sep c c | ...
    documents    0   0 0 0 0 |   0 0 0   1 1 |   1 1   2 2 2 | ...

With `document`, each context is the beginning of one document, without a separator. Each text of a mixture (mixing.py)
is packed by itself, and whole contexts are interleaved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict

import numpy as np
from pydantic import Field, model_validator

from lmsae.config import Frozen
from lmsae.errors import NotEnoughTokens
from lmsae.runtime.disk import require_space
from lmsae.text.mixing import find_first_exhausted, interleave
from lmsae.text.spool import Spool
from lmsae.text.tokens import CHUNK_TOKENS, Split, TokenWriter

FEW_DOCUMENTS = 10
"""So many documents are hardly on both sides of a split."""
ChatTokens = Literal["content", "assistant", "all"]


class TokenizeConfig(Frozen):
    """The columns that say how text becomes contexts of token ids."""

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
        description="Largest number of training tokens, without the calibration split. Empty: all. Every text of a "
        "mixture must hold its share of them; if empty, a mixture ends where its first text does.",
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
        """Contexts of the calibration split."""
        return -(-self.calibration_tokens // self.context_size)

    @property
    def most_train_contexts(self) -> int | None:
        """The most contexts of the training split, calibration ones included, or None without a limit."""
        return None if self.tokens is None else self.calibration_contexts + self.tokens // self.context_size

    @property
    def most_held_out_contexts(self) -> int:
        """The most contexts of the held-out split."""
        return self.held_out_tokens // self.context_size


class TextCounts(TypedDict):
    """The counts of one text of a mixture."""

    name: str
    weight: float
    documents: int
    train_contexts: int
    held_out_contexts: int


class PackingCounts(TypedDict):
    """The counts of the contexts and tokens that were packed."""

    calibration_contexts: int
    train_contexts: int
    train_tokens: int
    held_out_contexts: int
    held_out_tokens: int
    sources: list[TextCounts]


@dataclass(frozen=True)
class SpooledText:
    """A text that has been tokenized: its share of the tokens, and the ids of both splits, which wait to be packed."""

    name: str
    weight: float
    train: Spool
    held_out: Spool

    def spool(self, split: Split) -> Spool:
        """The spool of a split."""
        return self.train if split == "train" else self.held_out

    @property
    def spools(self) -> tuple[Spool, Spool]:
        """The spools of both splits."""
        return self.train, self.held_out


def contexts_of(
    spools: Sequence[Spool], order: np.ndarray, config: TokenizeConfig, bos: int | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield blocks of ids, of document indices and, if the spools have them, of masks, each (contexts, context_size).

    `order` holds the number of the spool that each context comes from. Document indices count through all spools, one
    after the other. BOS belongs to the document of the token behind it.
    """
    step = max(1, CHUNK_TOKENS // config.context_size)
    first_document = np.cumsum([0, *map(len, spools)])
    used = np.zeros(len(spools), int)
    for begin in range(0, len(order), step):
        wanted = order[begin : begin + step]
        counts = np.bincount(wanted, minlength=len(spools))
        parts = []
        for number in np.flatnonzero(counts).tolist():
            span = (used[number] * config.body, (used[number] + counts[number]) * config.body)
            ids, documents, *mask = spools[number].read(*span)
            parts.append((ids, documents + first_document[number], *mask))
        used += counts
        back = np.argsort(np.argsort(wanted, kind="stable"))  # from the order of the parts to that of the block
        block = [np.concatenate(part).reshape(-1, config.body)[back] for part in zip(*parts, strict=True)]
        yield _prepend_bos(block, bos) if config.prepend_bos else tuple(block)


def pack(texts: Sequence[SpooledText], config: TokenizeConfig, bos: int | None, writer: TokenWriter) -> PackingCounts:
    """Write both splits. Returns the counts of contexts and tokens, in all and of each text.

    Raises NotEnoughTokens when a split would be empty or a text of a mixture is shorter than its share of
    `tokenize.tokens`, and NoSpaceError when the disk has too little room.
    """
    order = {
        "train": _interleave(texts, "train", config, config.most_train_contexts),
        "held_out": _interleave(texts, "held_out", config, config.most_held_out_contexts),
    }
    _require_enough(texts, {split: len(contexts) for split, contexts in order.items()}, config)
    if config.most_train_contexts is not None and len(texts) > 1 and len(order["train"]) < config.most_train_contexts:
        raise _missing_share(texts, config, config.most_train_contexts)
    nbytes = sum(map(len, order.values())) * config.context_size * writer.bytes_per_token
    require_space(writer.directory, nbytes, "lower tokenize.tokens")
    splits: tuple[Split, ...] = ("train", "held_out")
    for split in splits:
        blocks = contexts_of([text.spool(split) for text in texts], order[split], config, bos)
        writer.write_split(split, len(order[split]), config.context_size, blocks)
    used = {split: np.bincount(order[split], minlength=len(texts)).tolist() for split in splits}
    return {
        "calibration_contexts": config.calibration_contexts,
        "train_contexts": len(order["train"]),
        "train_tokens": (len(order["train"]) - config.calibration_contexts) * config.context_size,
        "held_out_contexts": len(order["held_out"]),
        "held_out_tokens": len(order["held_out"]) * config.context_size,
        "sources": [
            {
                "name": text.name,
                "weight": text.weight,
                "documents": len(text.train) + len(text.held_out),
                "train_contexts": used["train"][number],
                "held_out_contexts": used["held_out"][number],
            }
            for number, text in enumerate(texts)
        ],
    }


def _prepend_bos(block: Sequence[np.ndarray], bos: int | None) -> tuple[np.ndarray, ...]:
    """The ids, document indices and mask of a block, with BOS before each context."""
    assert bos is not None, "Vocabulary.require_bos has been asked"
    ids, documents, *mask = block
    repeated = np.concatenate([documents[:, :1], documents], axis=1)
    return np.insert(ids, 0, bos, axis=1), repeated, *(np.insert(part, 0, True, axis=1) for part in mask)


def _interleave(texts: Sequence[SpooledText], split: Split, config: TokenizeConfig, most: int | None) -> np.ndarray:
    available = [text.spool(split).tokens // config.body for text in texts]
    return interleave([text.weight for text in texts], available, most)


def _missing_share(texts: Sequence[SpooledText], config: TokenizeConfig, wanted: int) -> NotEnoughTokens:
    """The error for a mixture of which one text is shorter than its share."""
    weights = [text.weight for text in texts]
    available = [text.train.tokens // config.body for text in texts]
    number = find_first_exhausted(weights, available)
    share = np.bincount(interleave(weights, [wanted] * len(texts), wanted), minlength=len(texts))[number]
    possible = (len(interleave(weights, available, None)) - config.calibration_contexts) * config.context_size
    return NotEnoughTokens(
        f"dataset.name, {texts[number].name!r}: its share of the training tokens, {weights[number]:.4g} of them, is "
        f"{share * config.context_size:,} (tokenize.tokens is {config.tokens:,}, the calibration split comes on top); "
        f"its training text holds {available[number] * config.context_size:,}. Lower tokenize.tokens to "
        f"{max(possible, 0):,} or this text's weight, read more of it, or leave tokenize.tokens empty: then the "
        "mixture ends where its first text does."
    )


def _require_enough(texts: Sequence[SpooledText], counts: dict[str, int], config: TokenizeConfig) -> None:
    size, calibration = config.context_size, config.calibration_contexts
    documents = {split: sum(len(text.spool(split)) for text in texts) for split in ("train", "held_out")}
    tokens = {split: sum(text.spool(split).tokens for text in texts) for split in ("train", "held_out")}
    divide = ""
    if sum(documents.values()) <= FEW_DOCUMENTS:
        divide = (
            f" The text has {sum(documents.values()):,} documents in all; dataset.divide_at divides long text files."
        )
    if counts["train"] <= calibration:
        raise NotEnoughTokens(
            f"the training text holds {documents['train']:,} documents and {tokens['train']:,} tokens, "
            f"{counts['train']:,} contexts of {size:,}; the calibration split takes {calibration:,} of them "
            f"(tokenize.calibration_tokens {config.calibration_tokens:,}) and at least one must be left to train on. "
            f"Lower tokenize.calibration_tokens or tokenize.context_size, or read more text.{divide}"
        )
    if counts["held_out"] == 0:
        raise NotEnoughTokens(
            f"the held-out text holds {documents['held_out']:,} documents and {tokens['held_out']:,} tokens, which is "
            f"not one context of {size:,}. Raise tokenize.held_out_fraction ({config.held_out_fraction}), lower "
            f"tokenize.context_size, or read more documents.{divide}"
        )
