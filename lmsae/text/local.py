"""The local texts: a file, a folder of text files, or a folder of tables that is read as a dataset with splits."""

from collections.abc import Collection, Iterator
from pathlib import Path

from lmsae.config import canonical_json
from lmsae.errors import SourceError, suggest
from lmsae.text import files
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.dividing import divide
from lmsae.text.documents import AnyDocument, Document
from lmsae.text.files import LocalFiles
from lmsae.text.kind import COLUMNS_OF_ALL, COLUMNS_OF_SPLITS, COLUMNS_OF_VALUES, DigestLookup, key_of_files
from lmsae.text.records import document_of
from lmsae.text.splits import files_of_split
from lmsae.text.table_files import read_column, require_column_somewhere


class LocalText:
    """A local file or folder; its identity is a digest of its files."""

    holds_ids = False
    can_change = True

    def recognizes(self, name: str) -> bool:
        """True for a path that exists, and for a name that can only mean a path."""
        path = _path(name)
        return path.exists() or name.startswith(("/", ".", "~")) or path.suffix in files.TABLES | files.TEXTS

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """Those of a folder of tables are a hub dataset's without a revision; text files may be divided, and hold
        neither token ids nor conversations."""
        found = _files_of(config)
        if found.holds_tables:
            return COLUMNS_OF_ALL | COLUMNS_OF_VALUES | COLUMNS_OF_SPLITS
        if found.data[0].suffix in files.TEXTS:
            return COLUMNS_OF_ALL | {"column", "divide_at"}
        return COLUMNS_OF_ALL | COLUMNS_OF_VALUES

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The digest of the names and bytes of all files. Raises SourceError if no table has the wanted column, or the
        first row of the first table holds another kind of value there."""
        found = _files_of(config)
        key = key_of_files(found.all)
        if found.holds_tables:
            # The library that knows the splits is slow to load, so a plan asks it once.
            columns = [config.column, config.tokens_column, config.messages_column]
            wanted = canonical_json([config.subset, config.split, *columns])
            look_up(f"{key}:{wanted}", lambda: _check_split(config, found))
        elif found.data[0].suffix in files.TABLES:
            require_column_somewhere(config.values_column, found.data)
            _require_first_value(config, found.data[0], f"{found.name_of(found.data[0])}:0")
        return look_up(key, lambda: files.digest_of_files(found))

    def documents(self, dataset: ResolvedDataset) -> Iterator[AnyDocument]:
        """The rows of a split or of a table, or a document a text file or a part of it."""
        found = _files_of(dataset)
        if found.holds_tables:
            tables = files_of_split(dataset, found)
            values = (value for table in tables for value in read_column(table, dataset.values_column))
            for row, value in enumerate(values):
                yield document_of(dataset, str(row), value)
        else:
            for file in found.data:
                yield from _documents_of(dataset, file, found.name_of(file))


def _check_split(config: DatasetConfig, found: LocalFiles) -> str:
    """Raise SourceError unless the folder has the wanted split with the wanted column, of the wanted kind."""
    tables = files_of_split(config, found)
    require_column_somewhere(config.values_column, tables)
    _require_first_value(config, tables[0], "0")
    return "there"


def _require_first_value(config: DatasetConfig, table: Path, name: str) -> None:
    """Raise SourceError if the first row of a table holds no value of the wanted kind. An array is not read for that:
    its first row is known only with all others."""
    if table.suffix != ".json":
        document_of(config, name, next(read_column(table, config.values_column), None))


def _files_of(config: DatasetConfig) -> LocalFiles:
    return files.local_files(_require_path(config.name))


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
        for row, value in enumerate(read_column(file, dataset.values_column)):
            yield document_of(dataset, f"{name}:{row}", value)
    else:
        with files.open_text(file) as opened:
            if dataset.divide_at is None:
                yield Document(name, opened.read())
            else:
                for number, text in enumerate(divide(opened, dataset.divide_at)):
                    yield Document(f"{name}:{number}", text)
