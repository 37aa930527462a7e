"""Tokenizing: documents through a tokenizer into packed contexts on disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.document_places import NamedDocument, write_documents
from lmsae.text.documents import AnyDocument, Omission, TokenDocument, is_held_out, shuffle_rank
from lmsae.text.encoding import Encoder
from lmsae.text.mixing import interleave
from lmsae.text.packing import PackingCounts, SpooledText, TokenizeConfig, pack
from lmsae.text.spool import Spool
from lmsae.text.tokens import Split, TokenWriter, dtype_of

BATCH_CHARACTERS, BATCH_DOCUMENTS = 2**21, 1024
"""The largest batch for the tokenizer: enough for its threads, and little for memory."""
POOL_CHARACTERS, POOL_DOCUMENTS = 2**24, 2**16
"""Documents that are put into their shuffled order at a time, so that those behind the limits are not tokenized."""
SMALLEST_BATCH = 2**16


@dataclass(frozen=True)
class TextSource:
    """Documents to be tokenized: a whole text, or one text of a mixture with its share of the tokens.

    With `stop_when_full` (for streams) reading ends as soon as both splits can be filled to their limits. Otherwise all
    documents are read, and the first of their shuffled order that fill the limits are tokenized.
    """

    documents: Iterable[AnyDocument]
    name: str = "text"
    weight: float = 1.0
    stop_when_full: bool = False


class DocumentCounts(TypedDict):
    """The counts of the documents that the limits leave: those in use, and those that cannot be used."""

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
    """Tokenize and pack documents into `out/tokens.zarr`, and write their names. Returns the counts.

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
    with ExitStack() as stack:

        def spool(most: int | None) -> Spool:
            made = Spool(out, dtype_of(vocabulary.d_vocab), config.seed, masked=masked, most=most)
            return stack.enter_context(made)

        texts = [
            SpooledText(source.name, source.weight, spool(train), spool(held_out))
            for source, (train, held_out) in zip(sources, _tokens_needed(sources, config), strict=True)
        ]
        for source, text in zip(sources, texts, strict=True):
            _read(source, text, encoder, progress)
        counts: Counts = {**_count_documents(texts), **pack(texts, config, vocabulary.bos, writer)}
        require_claim()
        write_documents(_name_documents(texts, counts, config.body), out)
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


def _read(source: TextSource, text: SpooledText, encoder: Encoder, progress: Callable[[int], None]) -> None:
    """Encode the documents of a source into the spools of its text."""
    config, reason = encoder.config, ""

    def spool_for(document: AnyDocument) -> Spool:
        return text.held_out if is_held_out(document.split_name, config.held_out_fraction) else text.train

    for pool in _batches(source.documents, *_pool_size(source)):
        pool.sort(key=lambda document: shuffle_rank(config.seed, document.name))
        wanted = (document for document in pool if spool_for(document).wants(document.name))
        for batch in _batches(wanted, _batch_size(text), BATCH_DOCUMENTS):
            tokens = 0
            for document, encoded in zip(batch, encoder.encode(batch), strict=True):
                spool = spool_for(document)
                if isinstance(encoded, Omission):
                    spool.leave_out(document.name)
                    reason = f"; the last was left out: {encoded.reason}"
                    continue
                characters = 0 if isinstance(document, TokenDocument) else document.size
                spool.append(document.name, encoded.ids, encoded.mask, characters)
                tokens += len(encoded)
            progress(tokens)
        if source.stop_when_full and text.train.is_full and text.held_out.is_full:
            break
    if not len(text.train) and not len(text.held_out):
        raise SourceError(
            f"dataset.name {source.name!r}: there is no text that can be used, not a single document{reason}. See "
            "dataset.name and its column."
        )
    for spool in text.spools:
        spool.keep_first()


def _name_documents(texts: Sequence[SpooledText], counts: PackingCounts, body: int) -> Iterator[NamedDocument]:
    """Yield the name of every document that any context holds, by split and by index."""
    splits: tuple[tuple[Split, Literal["train_contexts", "held_out_contexts"]], ...] = (
        ("train", "train_contexts"),
        ("held_out", "held_out_contexts"),
    )
    for split, count in splits:
        first = 0
        for text, packed in zip(texts, counts["sources"], strict=True):
            spool = text.spool(split)
            for number, name in enumerate(spool.names(packed[count] * body), first):
                yield NamedDocument(split, number, text.name, name)
            first += len(spool)


def _count_documents(texts: Sequence[SpooledText]) -> DocumentCounts:
    spools = [spool for text in texts for spool in text.spools]
    return {
        "documents": sum(map(len, spools)),
        "left_out": sum(spool.left_out for spool in spools),
        "characters": sum(spool.characters for spool in spools),
        "tokens": sum(spool.tokens for spool in spools),
    }


def _tokens_needed(sources: Sequence[TextSource], config: TokenizeConfig) -> list[tuple[int | None, int]]:
    """The tokens of both splits that each source must supply for the limits; None of a split that has no limit."""
    weights = [source.weight for source in sources]

    def share(most: int) -> list[int]:
        order = interleave(weights, [most] * len(sources), most)
        return (np.bincount(order, minlength=len(sources)) * config.body).tolist()

    most = config.most_train_contexts
    train = [None] * len(sources) if most is None else share(most)
    return list(zip(train, share(config.most_held_out_contexts), strict=True))


def _pool_size(source: TextSource) -> tuple[int, int]:
    """Characters and documents of a pool. A stream stops at the end of one, so it is small."""
    return (BATCH_CHARACTERS, BATCH_DOCUMENTS) if source.stop_when_full else (POOL_CHARACTERS, POOL_DOCUMENTS)


def _batch_size(text: SpooledText) -> int:
    """Characters of a batch: less where little is wanted, so that little is encoded in vain."""
    limits = [spool.most for spool in text.spools]
    return BATCH_CHARACTERS if None in limits else min(BATCH_CHARACTERS, max(SMALLEST_BATCH, sum(filter(None, limits))))


def _batches(documents: Iterable[AnyDocument], characters: int, most: int) -> Iterator[list[AnyDocument]]:
    """Yield batches of so many characters or more, and of so many documents at most."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= characters or len(batch) == most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
