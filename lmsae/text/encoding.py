"""Encoding: documents of every kind as token ids, and what packing must know of a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.chat import encode_chats
from lmsae.text.documents import AnyDocument, ChatDocument, Document, Encoded, LeftOut, TokenDocument
from lmsae.text.packing import TokenizeConfig


@dataclass(frozen=True)
class Vocabulary:
    """What packing needs to know of a tokenizer.

    The separator stands before each document: EOS as in the training of GPT-NeoX on the Pile, or BOS for want of it.
    `special` are all tokens that are no text, `ends` those of them that begin and end documents.
    """

    d_vocab: int
    bos: int | None = None
    separator: int | None = None
    special: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":
        """Read it off a `transformers` tokenizer."""
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        bos = eos if bos is None else bos
        separator = bos if eos is None else eos
        ends = {token for token in (bos, eos, pad) if token is not None}
        added = {token for token, written in tokenizer.added_tokens_decoder.items() if written.special}
        special = ends | added - {tokenizer.unk_token_id}  # text that the tokenizer does not know is text
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
    """Turns documents into ids, and into masks where only some of their tokens are to be used.

    Without a tokenizer documents must be ids already.
    """

    tokenizer: Any
    vocabulary: Vocabulary
    config: TokenizeConfig

    def encode(self, batch: Sequence[AnyDocument]) -> list[Encoded | LeftOut]:
        """The ids of each document as they are packed, separator included; the mask is None if all may be used.

        `<|endoftext|>` written in a text stays ordinary text. Ids that the source held already are taken as they are,
        but for special tokens at either end, since packing puts its own separators. A chat is what its template says.
        """
        texts = iter(self._encoded_texts([document.text for document in batch if isinstance(document, Document)]))
        chats = [document for document in batch if isinstance(document, ChatDocument)]
        chats = iter(encode_chats(chats, self.tokenizer, self.config.chat_tokens) if chats else [])
        encoded: list[Encoded | LeftOut] = []
        for document in batch:
            if isinstance(document, ChatDocument):
                encoded.append(self._cut_chat(next(chats)))
            elif isinstance(document, TokenDocument):
                encoded.append(self._cut(self._given(document)))
            else:
                encoded.append(self._cut(np.array(next(texts), np.int64)))
        return encoded

    def _encoded_texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def _given(self, document: TokenDocument) -> np.ndarray:
        largest = max(document.ids, default=0)
        if largest >= self.vocabulary.d_vocab:
            raise SourceError(
                f"document {document.name}: token id {largest:,} is beyond the vocabulary of "
                f"{self.vocabulary.d_vocab:,}. Was it made for another tokenizer (dataset.tokens_column)?"
            )
        ids = np.array(document.ids, np.int64)
        kept = np.flatnonzero(~np.isin(ids, self.vocabulary.ends))
        return ids[kept[0] : kept[-1] + 1] if len(kept) else ids[:0]

    def _cut(self, ids: np.ndarray) -> Encoded | LeftOut:
        """Ids with their separator or, packed by document, the beginning that fills a context."""
        if self.config.packing == "document":
            return self._beginning(Encoded(ids))
        separator = self.vocabulary.separator
        return Encoded(ids if separator is None else np.concatenate([[separator], ids]))

    def _cut_chat(self, chat: Encoded | LeftOut) -> Encoded | LeftOut:
        """A chat as its template begins and ends it or, packed by document, the beginning that fills a context."""
        if isinstance(chat, LeftOut) or self.config.packing == "stream":
            return chat
        begins_itself = self.config.prepend_bos and len(chat) > 0 and chat.ids[0] == self.vocabulary.bos
        return self._beginning(chat[1:] if begins_itself else chat)

    def _beginning(self, document: Encoded) -> Encoded | LeftOut:
        size = self.config.body
        if len(document) < size:
            return LeftOut(f"its {len(document):,} tokens do not fill a context (tokenize.packing is document)")
        return document[:size]
