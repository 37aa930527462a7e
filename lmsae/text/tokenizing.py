"""Tokenizing: documents through a tokenizer into packed contexts on disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.documents import Document, TokenDocument, is_held_out
from lmsae.text.packing import Spool, TokenizeConfig, pack
from lmsae.text.tokens import TokenWriter, dtype_of

BATCH_CHARACTERS = 2**21
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Vocabulary:
    """What packing needs to know of a tokenizer.

    The separator stands before each document: EOS as in the training of GPT-NeoX on the Pile, or BOS for want of it.
    """

    d_vocab: int
    bos: int | None
    separator: int | None
    special: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, *, prepend_bos: bool) -> "Vocabulary":
        """Read it off a `transformers` tokenizer. Raises SourceError if BOS is wanted and there is nothing for it."""
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        bos = eos if bos is None else bos
        separator = bos if eos is None else eos
        if prepend_bos and bos is None:
            raise SourceError(
                "the tokenizer has neither a BOS nor an EOS token to begin contexts with. "
                "Set tokenize.prepend_bos to false."
            )
        special = sorted({token for token in (bos, eos, pad) if token is not None})
        return cls(max(tokenizer.get_vocab().values()) + 1, bos, separator, tuple(special))


def tokenize(
    documents: Iterable[Document | TokenDocument],
    tokenizer: Any,
    config: TokenizeConfig,
    out: Path,
    progress: Callable[[int], None] = lambda tokens: None,
    *,
    stop_when_full: bool = False,
) -> dict[str, int]:
    """Tokenize and pack documents into `out/tokens.zarr`; returns what was counted.

    `tokenizer` is a `transformers` tokenizer, fast or slow; documents that are tokens already need only its special
    tokens. `progress` is told the tokens of each batch. With `stop_when_full` (for streams) reading ends once both
    splits can be filled to their limits; else all documents take part in the shuffle before the limits cut it.
    Raises SourceError when there is no document or an id is beyond the vocabulary, NotEnoughTokens, NoSpaceError.
    """
    vocabulary = Vocabulary.of(tokenizer, prepend_bos=config.prepend_bos)
    writer = TokenWriter(out, vocabulary.d_vocab)
    dtype = dtype_of(vocabulary.d_vocab)
    separator = np.array([] if vocabulary.separator is None else [vocabulary.separator], dtype)
    counts = {"documents": 0, "characters": 0, "tokens": 0}
    with Spool(out, dtype, config.seed) as train, Spool(out, dtype, config.seed) as held_out:
        for batch in _batches(documents):
            before = counts["tokens"]
            for document, ids in zip(batch, encode(batch, tokenizer, vocabulary), strict=True):
                spool = held_out if is_held_out(document.name, config.held_out_fraction) else train
                spool.append(document.name, np.concatenate([separator, ids]))
                counts["documents"] += 1
                counts["characters"] += len(document.text) if isinstance(document, Document) else 0
                counts["tokens"] += len(ids)
            progress(counts["tokens"] - before)
            if (
                stop_when_full
                and _full(train, config.most_train_contexts, config)
                and _full(held_out, config.most_held_out_contexts, config)
            ):
                break
        if not counts["documents"]:
            raise SourceError(
                "there is no text: the dataset gave not a single document. See dataset.name and its column."
            )
        counts |= pack(train, held_out, config, vocabulary.bos, writer)
    writer.write_attributes(
        {
            "n_aside_contexts": config.aside_contexts,
            "bos_token_id": vocabulary.bos,
            "special_token_ids": list(vocabulary.special),
            "d_vocab": vocabulary.d_vocab,
            "counts": counts,
        }
    )
    return counts


def encode(batch: Sequence[Document | TokenDocument], tokenizer: Any, vocabulary: Vocabulary) -> list[np.ndarray]:
    """The ids of each document, without any special token: `<|endoftext|>` written in a text stays ordinary text.

    Ids that the source held already are taken as they are, but for special tokens at either end, since packing
    puts its own separators.
    """
    texts = [document.text for document in batch if isinstance(document, Document)]
    encoded = iter(
        tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        if texts
        else []
    )
    return [
        np.array(next(encoded), np.int64) if isinstance(document, Document) else _given(document, vocabulary)
        for document in batch
    ]


def require_context(context_size: int, max_context: int | None) -> None:
    """Raise SourceError when contexts are longer than the model reads; None means a model without a maximum."""
    if max_context is not None and context_size > max_context:
        raise SourceError(
            f"tokenize.context_size {context_size:,}: the model reads at most {max_context:,} tokens. "
            f"Set tokenize.context_size to {max_context:,} or less."
        )


def _given(document: TokenDocument, vocabulary: Vocabulary) -> np.ndarray:
    largest = max(document.ids, default=0)
    if largest >= vocabulary.d_vocab:
        raise SourceError(
            f"document {document.name}: token id {largest:,} is beyond the tokenizer's vocabulary of "
            f"{vocabulary.d_vocab:,}. Was dataset.tokens_column made with another tokenizer?"
        )
    ids = np.array(document.ids, np.int64)
    kept = np.flatnonzero(~np.isin(ids, vocabulary.special))
    return ids[kept[0] : kept[-1] + 1] if len(kept) else ids[:0]


def _batches(documents: Iterable[Document | TokenDocument]) -> Iterator[list[Document | TokenDocument]]:
    """Batches that are large enough for the tokenizer's threads and small enough for memory."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text if isinstance(document, Document) else document.ids)
        if size >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _full(spool: Spool, contexts: int | None, config: TokenizeConfig) -> bool:
    return contexts is not None and spool.tokens >= contexts * config.body
