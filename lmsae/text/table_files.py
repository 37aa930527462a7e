"""Tables: the columns of .jsonl, .json, .parquet and .csv files. Only the column that is wanted is read."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lmsae.config import parse_json
from lmsae.errors import SourceError, suggest

_HEAD = 2**20
"""Characters of a .json array in which its first row is looked for."""


def read_column(path: Path, column: str) -> Iterator[object]:
    """Yield the values of one column of a table, row by row.

    Raises SourceError for a column that is not there and for a file that is not what its name says.
    """
    with _explain(path):
        if path.suffix == ".parquet":
            yield from _parquet_column(path, column)
            return
        rows: Iterator[object] = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
        for number, row in enumerate(rows):
            known = _require_row(row, path, number)
            require_column(column, known, f"{path}, row {number}")
            yield known[column]


def require_column_somewhere(column: str, paths: Sequence[Path]) -> None:
    """Raise SourceError if none of some tables has a column, by a look at the first row of each."""
    known: dict[str, None] = {}
    for path in paths:
        columns = columns_of(path)
        if columns is None or column in columns:
            return
        known |= dict.fromkeys(columns)
    if known:
        require_column(column, known, str(paths[0]))


def columns_of(path: Path) -> Sequence[str] | None:
    """The columns of a table, or of its first row; none if it is empty, and None if its first row is too long to tell.

    Raises SourceError for a file that is not what its name says.
    """
    with _explain(path):
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_schema(path).names
        if path.suffix == ".csv":
            with _open_csv(path) as rows:
                return rows.fieldnames or ()
        if path.suffix == ".json" and (head := _head_of_array(path)) is not None:
            return _columns_of_first(head, path)
        first = next(_json_rows(path), None)
        return () if first is None else [*_require_row(first, path, 0)]


def require_column(column: str, columns: Iterable[str], where: str) -> None:
    """Raise SourceError unless `column` is among `columns`; the message names them and the nearest."""
    known = [str(name) for name in columns]
    if column not in known:
        raise SourceError(
            f"{where}: there is no column {column!r}; there {'is' if len(known) == 1 else 'are'} "
            f"{', '.join(known) or 'none at all'}{suggest(column, known) or '.'} "
            "Set dataset.column (or dataset.tokens_column for token ids, dataset.messages_column for conversations)."
        )


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turns what libraries raise about a file into SourceError."""
    try:
        yield
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{path}: not a readable {path.suffix} file ({error}). Mend it, or leave it out.") from error


def _require_row(row: object, path: Path, number: int) -> Mapping[str, object]:
    if not isinstance(row, dict):
        raise SourceError(f"{path}, row {number}: not an object with named columns but {type(row).__name__}.")
    return row


def _parquet_column(path: Path, column: str) -> Iterator[object]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        require_column(column, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            yield from batch.column(0).to_pylist()


@contextmanager
def _open_csv(path: Path) -> "Iterator[csv.DictReader[str]]":
    csv.field_size_limit(sys.maxsize)  # the default refuses documents of more than 131,072 characters
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield csv.DictReader(file)


def _csv_rows(path: Path) -> Iterator[Mapping[str, object]]:
    with _open_csv(path) as rows:
        yield from rows


def _json_rows(path: Path) -> Iterator[object]:
    """Yield the rows of a file of JSON lines. A .json file may instead be one array of objects."""
    with path.open(encoding="utf-8-sig") as file:
        if path.suffix == ".json" and file.read(1024).lstrip().startswith("["):
            file.seek(0)
            yield from parse_json(file.read())
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield parse_json(line)
                except ValueError as error:
                    raise SourceError(f"{path}, line {number}: not JSON ({error}). Mend it, or leave it out.") from None


def _head_of_array(path: Path) -> str | None:
    """The first characters of a .json file behind the bracket that opens an array, or None if it is no array."""
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(_HEAD).lstrip()
    return head[1:].lstrip() if head.startswith("[") else None


def _columns_of_first(head: str, path: Path) -> Sequence[str] | None:
    """The columns of the first object of an array, or None if it does not end in these characters."""
    if head.startswith("]"):
        return ()
    try:
        first, _ = json.JSONDecoder().raw_decode(head)
    except (ValueError, RecursionError):
        return None
    return [*_require_row(first, path, 0)]
