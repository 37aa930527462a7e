"""Tokenizing: documents through a tokenizer into packed contexts on disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.documents import AnyDocument, Omission, TokenDocument, is_held_out
from lmsae.text.encoding import Encoder
from lmsae.text.mixing import interleave
from lmsae.text.packing import PackingCounts, SpooledText, TokenizeConfig, pack
from lmsae.text.spool import Spool
from lmsae.text.tokens import TokenWriter, dtype_of

BATCH_CHARACTERS = 2**21
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class TextSource:
    """Documents to be tokenized: a whole text, or one text of a mixture with its share of the tokens.

    With `stop_when_full` (for streams) reading ends as soon as both splits can be filled to their limits. Otherwise all
    documents are shuffled before the limits cut them.
    """

    documents: Iterable[AnyDocument]
    name: str = "text"
    weight: float = 1.0
    stop_when_full: bool = False


class DocumentCounts(TypedDict):
    """The counts of documents that were tokenized, and of those that were left out."""

    documents: int
    left_out: int
    characters: int
    tokens: int


class Counts(DocumentCounts, PackingCounts):
    """Everything that tokenizing counts."""


def tokenize(
    sources: Sequence[TextSource],
    encoder: Encoder,
    out: Path,
    progress: Callable[[int], None] = lambda tokens: None,
    require_claim: Callable[[], None] = lambda: None,
    *,
    masked: bool = False,
) -> Counts:
    """Tokenize and pack documents into `out/tokens.zarr`. Returns the counts.

    `progress` is called with the tokens of each batch. `require_claim` raises an error if `out` is another process's by
    now; it is asked before each block is written. `masked` says that some documents may have masks. Documents that
    cannot be used are left out and counted: a chat that its template refuses, or a document too short for the context
    that it should fill. Raises SourceError when no document is left or an id is beyond the vocabulary, NotEnoughTokens,
    and NoSpaceError.
    """
    config, vocabulary = encoder.config, encoder.vocabulary
    if config.prepend_bos:
        vocabulary.require_bos()
    writer = TokenWriter(out, vocabulary.d_vocab, masked=masked, require_claim=require_claim)
    documents: DocumentCounts = {"documents": 0, "left_out": 0, "characters": 0, "tokens": 0}
    with ExitStack() as stack:
        spools = [
            stack.enter_context(Spool(out, dtype_of(vocabulary.d_vocab), config.seed, masked=masked))
            for _ in range(2 * len(sources))
        ]
        texts = [
            SpooledText(source.name, source.weight, train, held_out)
            for source, train, held_out in zip(sources, spools[::2], spools[1::2], strict=True)
        ]
        needed = _tokens_needed(sources, config)
        for source, text, limits in zip(sources, texts, needed, strict=True):
            _read(source, text, limits if source.stop_when_full else None, encoder, documents, progress)
        counts: Counts = {**documents, **pack(texts, config, vocabulary.bos, writer)}
    writer.write_attributes(
        {
            "n_calibration_contexts": config.calibration_contexts,
            "bos_token_id": vocabulary.bos,
            "special_token_ids": list(vocabulary.special) if config.mask_special else [],
            "d_vocab": vocabulary.d_vocab,
            "counts": counts,
        }
    )
    return counts


def require_context(context_size: int, max_context: int | None) -> None:
    """Raise SourceError when contexts are longer than the model reads. None is a model without a maximum."""
    if max_context is not None and context_size > max_context:
        raise SourceError(
            f"tokenize.context_size {context_size:,}: the model reads at most {max_context:,} tokens. "
            f"Set tokenize.context_size to {max_context:,} or less."
        )


def _read(
    source: TextSource,
    text: SpooledText,
    limits: tuple[int, int] | None,
    encoder: Encoder,
    counts: DocumentCounts,
    progress: Callable[[int], None],
) -> None:
    """Encode the documents of a source into the spools of its text, and add them to the counts.

    With `limits`, tokens of the train and of the held-out split, reading stops once both are reached.
    """
    reason, before = "", counts["documents"]
    for batch in _batches(source.documents):
        tokens = 0
        for document, encoded in zip(batch, encoder.encode(batch), strict=True):
            if isinstance(encoded, Omission):
                counts["left_out"] += 1
                reason = f"; the last was left out: {encoded.reason}"
                continue
            spool = text.held_out if is_held_out(document.name, encoder.config.held_out_fraction) else text.train
            spool.append(document.name, encoded.ids, encoded.mask)
            counts["documents"] += 1
            counts["characters"] += 0 if isinstance(document, TokenDocument) else document.size
            tokens += len(encoded)
        counts["tokens"] += tokens
        progress(tokens)
        if limits and text.train.tokens >= limits[0] and text.held_out.tokens >= limits[1]:
            break
    if counts["documents"] == before:
        raise SourceError(
            f"dataset.name {source.name!r}: there is no text that can be used, not a single document{reason}. See "
            "dataset.name and its column."
        )


def _tokens_needed(sources: Sequence[TextSource], config: TokenizeConfig) -> list[tuple[int, int] | None]:
    """The tokens of both splits that each source must supply for the limits, or None if training has no limit."""
    if config.most_train_contexts is None:
        return [None] * len(sources)
    weights = [source.weight for source in sources]
    per_split = []
    for most in (config.most_train_contexts, config.most_held_out_contexts):
        order = interleave(weights, [most] * len(sources), most)
        per_split.append(np.bincount(order, minlength=len(sources)) * config.body)
    return [(int(train), int(held_out)) for train, held_out in zip(*per_split, strict=True)]


def _batches(documents: Iterable[AnyDocument]) -> Iterator[list[AnyDocument]]:
    """Yield batches that are large enough for the tokenizer's threads and small enough for memory."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
