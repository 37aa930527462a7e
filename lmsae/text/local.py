"""The local texts: a file, a folder of text files, or a folder of tables that is read as a dataset with splits."""

from collections.abc import Collection, Iterator
from pathlib import Path

from lmsae.errors import SourceError, suggest
from lmsae.text import files
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.documents import AnyDocument, Document
from lmsae.text.kind import COLUMNS_OF_ALL, COLUMNS_OF_SPLITS, COLUMNS_OF_VALUES, DigestLookup, key_of_files
from lmsae.text.records import document_of
from lmsae.text.splits import read_split


class LocalText:
    """A local file or folder; its identity is a digest of its files."""

    holds_ids = False
    can_change = True

    def recognizes(self, name: str) -> bool:
        """True for a path that exists, and for a name that can only mean a path."""
        path = _path(name)
        return path.exists() or name.startswith(("/", ".", "~")) or path.suffix in files.TABLES | files.TEXTS

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """Those of a folder of tables are a hub dataset's without a revision; others have no splits."""
        path = _require_path(config.name)
        return COLUMNS_OF_ALL | COLUMNS_OF_VALUES | (COLUMNS_OF_SPLITS if files.holds_tables(path) else frozenset())

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The digest of the names and bytes of all files."""
        path = _require_path(config.name)
        return look_up(key_of_files(files.local_files(path)), lambda: files.digest_of_files(path))

    def documents(self, dataset: ResolvedDataset) -> Iterator[AnyDocument]:
        """The rows of a split or of a table, or a document a text file."""
        path = _require_path(dataset.name)
        if files.holds_tables(path):
            for row, value in enumerate(read_split(dataset, str(path), commit=None)):
                yield document_of(dataset, str(row), value)
        else:
            for file in files.local_files(path):
                yield from _documents_of(dataset, file, files.relative_name(path, file))


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _require_path(name: str) -> Path:
    path = _path(name)
    if not path.exists():
        beside = [str(path.parent / entry.name) for entry in path.parent.glob("*")]
        raise SourceError(f"dataset.name {name!r}: there is no such file or folder{suggest(str(path), beside) or '.'}")
    return path


def _documents_of(dataset: ResolvedDataset, file: Path, name: str) -> Iterator[AnyDocument]:
    if file.suffix in files.TABLES:
        for row, value in enumerate(files.read_column(file, dataset.values_column)):
            yield document_of(dataset, f"{name}:{row}", value)
    elif dataset.tokens_column or dataset.messages_column:
        name = "tokens_column" if dataset.tokens_column else "messages_column"
        raise SourceError(f"{file}: a text file has no column {dataset.values_column!r}. Leave dataset.{name} empty.")
    else:
        yield Document(name, files.read_text(file))
