"""A document: the unit that is shuffled and split into train and held-out. Both splits never share one."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text. Its name is unique and stable within its text source.

    The name of its group decides its split. Without a group, that is its own name.
    """

    name: str
    text: str
    group: str | None = None

    @property
    def split_name(self) -> str:
        """The name that decides the split."""
        return self.group or self.name

    @property
    def size(self) -> int:
        """Characters of the text."""
        return len(self.text)

    @property
    def is_blank(self) -> bool:
        """True if the text holds nothing but white space."""
        return not self.text.strip()


@dataclass(frozen=True, slots=True)
class TokenDocument:
    """A document that its text source holds as token ids already."""

    name: str
    ids: Sequence[int]

    @property
    def split_name(self) -> str:
        """The name that decides the split."""
        return self.name

    @property
    def size(self) -> int:
        """Tokens of the document."""
        return len(self.ids)

    @property
    def is_blank(self) -> bool:
        """True if there is no token."""
        return not len(self.ids)


@dataclass(frozen=True, slots=True)
class ChatDocument:
    """A conversation: messages with a `role` and a `content` each, in their order."""

    name: str
    messages: Sequence[Mapping[str, str]]

    @property
    def split_name(self) -> str:
        """The name that decides the split."""
        return self.name

    @property
    def size(self) -> int:
        """Characters of all contents."""
        return sum(len(message["content"]) for message in self.messages)

    @property
    def is_blank(self) -> bool:
        """True if no message says anything."""
        return not any(message["content"].strip() for message in self.messages)


AnyDocument = Document | TokenDocument | ChatDocument


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document as it is packed: its token ids, and a mask of those that dictionaries may use, both (tokens,).

    A mask of None means that dictionaries may use all tokens.
    """

    ids: np.ndarray
    mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, span: slice) -> "EncodedDocument":
        return EncodedDocument(self.ids[span], None if self.mask is None else self.mask[span])


@dataclass(frozen=True, slots=True)
class Omission:
    """A document that cannot be packed, by the reason why it is left out."""

    reason: str


def is_held_out(name: str, fraction: float) -> bool:
    """True if the named document belongs to the held-out split.

    Only a hash of the name decides. So a document stays in its split when other documents come or go, and a larger
    `fraction` adds documents to the held-out split and takes none away.
    """
    return split_rank(name) < fraction * 2**64


def split_rank(name: str) -> int:
    """The 64-bit number of a name: the smaller, the sooner it is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def shuffle_rank(seed: int, name: str) -> int:
    """The 64-bit number that sorts a named document into the order of `seed`. It depends on no other document."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def digest_of(documents: Iterable[Document]) -> str:
    """The identity of a set of documents: sha256 over their names, groups and texts, in the order of their names."""
    total = hashlib.sha256()
    for document in sorted(documents, key=lambda document: document.name):
        name = document.name if document.split_name == document.name else f"{document.name}\0{document.group}"
        for part in (name.encode(), document.text.encode()):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
    return total.hexdigest()
