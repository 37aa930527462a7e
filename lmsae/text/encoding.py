"""Encoding: documents of every kind as token ids, and the facts about a tokenizer that packing needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.chat import encode_chats
from lmsae.text.documents import AnyDocument, ChatDocument, Document, EncodedDocument, Omission, TokenDocument
from lmsae.text.packing import TokenizeConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The facts about a tokenizer that packing needs.

    The separator stands before each document: EOS as in the training of GPT-NeoX on the Pile, or BOS if there is no
    EOS. `special` are all tokens that are no text. `ends` begin or end documents that are token ids already, or fill
    them up.
    """

    d_vocab: int
    bos: int | None = None
    separator: int | None = None
    special: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def from_tokenizer(cls, tokenizer: "Tokenizer") -> "Vocabulary":
        """The facts about a `transformers` tokenizer."""
        bos, eos, pad, unknown = (_id_of(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk"))
        bos = eos if bos is None else bos
        separator = bos if eos is None else eos
        edges = {token for token in (bos, eos) if token is not None}
        ends = edges | ({pad} if pad is not None else set())
        added = {token for token, written in tokenizer.added_tokens_decoder.items() if written.special}
        # Text that the tokenizer does not know is text. A model without a padding token is often given one of text.
        text = {unknown, pad} if pad == unknown or _text_gives(tokenizer, pad) else {unknown}
        special = edges | (ends | added) - text
        d_vocab = max(tokenizer.get_vocab().values()) + 1
        return cls(d_vocab, bos, separator, tuple(sorted(special)), tuple(sorted(ends)))

    def require_bos(self) -> None:
        """Raise SourceError if there is no token to begin contexts with."""
        if self.bos is None:
            raise SourceError(
                "the tokenizer has neither a BOS nor an EOS token to begin contexts with, or there is no tokenizer. "
                "Set tokenize.prepend_bos to false."
            )


@dataclass(frozen=True)
class Encoder:
    """Turns documents into ids, and into masks where dictionaries may use only some of their tokens.

    Without a tokenizer documents must be ids already.
    """

    tokenizer: "Tokenizer | None"
    vocabulary: Vocabulary
    config: TokenizeConfig

    def encode(self, batch: Sequence[AnyDocument]) -> list[EncodedDocument | Omission]:
        """The ids of each document as they are packed, separator included. Their mask is None if all may be used.

        `<|endoftext|>` written in a text stays ordinary text. Ids that the text source held already stay as they are,
        without the special tokens at either end, since packing puts its own separators. A chat is what its template
        makes of it.
        """
        texts = iter(self._tokenize([document.text for document in batch if isinstance(document, Document)]))
        chats = iter(self._encode_chats([document for document in batch if isinstance(document, ChatDocument)]))
        encoded: list[EncodedDocument | Omission] = []
        for document in batch:
            if isinstance(document, ChatDocument):
                encoded.append(self._fit_chat(next(chats)))
            elif isinstance(document, TokenDocument):
                encoded.append(self._fit(self._require_ids(document)))
            else:
                encoded.append(self._fit(np.array(next(texts), np.int64)))
        return encoded

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        assert self.tokenizer is not None, "documents of text need a tokenizer"
        return tokenize_texts(self.tokenizer, texts)

    def _encode_chats(self, chats: Sequence[ChatDocument]) -> list[EncodedDocument | Omission]:
        if not chats:
            return []
        assert self.tokenizer is not None, "conversations need a tokenizer"
        return encode_chats(chats, self.tokenizer, self.config.chat_tokens)

    def _require_ids(self, document: TokenDocument) -> np.ndarray:
        """The ids of a document without the special tokens at either end. Raises SourceError for other vocabularies."""
        largest = max(document.ids, default=0)
        if largest >= self.vocabulary.d_vocab:
            raise SourceError(
                f"document {document.name}: token id {largest:,} is beyond the vocabulary of "
                f"{self.vocabulary.d_vocab:,}. Was it made for another tokenizer (dataset.tokens_column)?"
            )
        ids = np.array(document.ids, np.int64)
        kept = np.flatnonzero(~np.isin(ids, self.vocabulary.ends))
        return ids[kept[0] : kept[-1] + 1] if len(kept) else ids[:0]

    def _fit(self, ids: np.ndarray) -> EncodedDocument | Omission:
        """Ids with their separator or, packed by document, the beginning that fills a context."""
        if self.config.packing == "document":
            return self._fill_context(EncodedDocument(ids))
        separator = self.vocabulary.separator
        return EncodedDocument(ids if separator is None else np.concatenate([[separator], ids]))

    def _fit_chat(self, chat: EncodedDocument | Omission) -> EncodedDocument | Omission:
        """A chat as its template begins and ends it or, packed by document, the beginning that fills a context."""
        if isinstance(chat, Omission) or self.config.packing == "stream":
            return chat
        begins_with_bos = self.config.prepend_bos and len(chat) > 0 and chat.ids[0] == self.vocabulary.bos
        return self._fill_context(chat[1:] if begins_with_bos else chat)

    def _fill_context(self, document: EncodedDocument) -> EncodedDocument | Omission:
        """The beginning of a document that fills a context."""
        size = self.config.body
        if len(document) < size:
            return Omission(f"its {len(document):,} tokens do not fill a context (tokenize.packing is document)")
        return document[:size]


def tokenize_texts(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, without special tokens. One that is written out in a text stays ordinary text."""
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    ).data["input_ids"]


def _text_gives(tokenizer: "Tokenizer", token: int | None) -> bool:
    """True if a text that writes a token out holds the token, as one that writes `<|endoftext|>` out does not."""
    if token is None:
        return False
    written = tokenizer.convert_ids_to_tokens(token)
    return token in tokenizer(str(written), add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _id_of(tokenizer: "Tokenizer", name: str) -> int | None:
    """The id of one of the tokenizer's special tokens, or None if it has no such token."""
    found = getattr(tokenizer, name)
    assert found is None or isinstance(found, int), f"{name} is {found!r}"
    return found
