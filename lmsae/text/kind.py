"""A kind of text: its name, its identity and its documents. Each kind is one class in a file of its own."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from lmsae.config import canonical_json, key_of
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.documents import AnyDocument

DigestLookup = Callable[[str, Callable[[], str]], str]
"""Called with a key that changes whenever the files do, and with the function that reads them to make the digest."""

COLUMNS_OF_ALL = frozenset({"name", "documents"})
COLUMNS_OF_VALUES = frozenset({"column", "tokens_column", "messages_column"})
COLUMNS_OF_SPLITS = frozenset({"subset", "split", "streaming"})


class TextKind(Protocol):
    """One kind of text. A new kind is a class like this one, and an entry in KINDS of lmsae/text/pinning.py."""

    @property
    def holds_ids(self) -> bool:
        """True if documents of this kind are always token ids."""
        ...

    @property
    def can_change(self) -> bool:
        """True if a text may change between its planning and its reading, which a look at its digest then tells."""
        ...

    def recognizes(self, name: str) -> bool:
        """True if this `dataset.name` names a text of this kind."""
        ...

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """The columns of `dataset` that mean something for this text."""
        ...

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The identity of the text as it is now. Raises SourceError if there is no such text."""
        ...

    def documents(self, dataset: ResolvedDataset) -> Iterator[AnyDocument]:
        """Yield all documents in the order of the text, blank ones too. Raises SourceError for what is no document."""
        ...


def key_of_files(paths: Sequence[Path]) -> str:
    """A key that changes whenever the path, size or modification time of one of these files does."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return key_of(canonical_json(states))
