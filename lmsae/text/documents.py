"""A document: the unit that is shuffled, split into train and held-out, and never torn between the two."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text under a name that is unique and stable within its source."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TokenDocument:
    """A document that its source holds as token ids already."""

    name: str
    ids: Sequence[int]


def is_held_out(name: str, fraction: float) -> bool:
    """Whether the named document belongs to the held-out split.

    Decided by a hash of the name alone, so a document stays on its side when others come or go, and a larger
    `fraction` only ever adds documents to the held-out side.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def shuffle_rank(seed: int, name: str) -> int:
    """The 64-bit number by which a named document is sorted into the order of `seed`; no other document matters."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def digest_of(documents: Iterable[Document]) -> str:
    """The identity of a set of documents: sha256 over their names and texts, in the order of their names."""
    total = hashlib.sha256()
    for document in sorted(documents, key=lambda document: document.name):
        for part in (document.name.encode(), document.text.encode()):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
    return total.hexdigest()
