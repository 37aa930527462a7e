"""Local files of text and of tables: those that a path stands for, their digest, and the values that they hold."""

import csv
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lmsae.config import parse_json
from lmsae.errors import SourceError, suggest

TABLES = frozenset({".jsonl", ".json", ".parquet", ".csv"})
TEXTS = frozenset({".txt", ".md"})
READABLE = f"readable are {', '.join(sorted(TABLES | TEXTS))}"
WAYS_OUT = (
    f"Set dataset.name to the right hub name, to a local file or folder ({READABLE}), or to builtin:python-stdlib, "
    "which needs no network."
)
"""The end of an error message about a text that cannot be found."""


def local_files(path: Path) -> list[Path]:
    """The readable files that a local path stands for, sorted by name. Hidden files and other types do not count.

    Raises SourceError when there is none.
    """
    if path.is_file():
        found = [path] if path.suffix in TABLES | TEXTS else []
    else:
        below = [file for file in path.rglob("*") if file.suffix in TABLES | TEXTS and file.is_file()]
        visible = [file for file in below if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        found = sorted(visible, key=lambda file: file.relative_to(path).as_posix())
    if not found:
        raise SourceError(
            f"{path}: no text that can be read here; {READABLE}. Set dataset.name to such a file or folder."
        )
    return found


def holds_tables(path: Path) -> bool:
    """True if a path is a folder with tables in it, which the `datasets` library reads as a dataset with splits."""
    return path.is_dir() and any(file.suffix in TABLES for file in local_files(path))


def relative_name(path: Path, file: Path) -> str:
    """The name of a file within the local path that a text is named by."""
    return file.name if file == path else file.relative_to(path).as_posix()


def digest_of_files(path: Path) -> str:
    """The identity of a local text: sha256 over names and bytes of its files, in the order of their names."""
    total = hashlib.sha256()
    for file in local_files(path):
        name = relative_name(path, file).encode()
        for number in (len(name), file.stat().st_size):
            total.update(number.to_bytes(8, "big"))
        total.update(name)
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                total.update(block)
    return total.hexdigest()


def read_text(path: Path) -> str:
    """The whole of a text file. Raises SourceError where it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text (byte {error.start}). Convert it, or leave it out.") from None


def read_column(path: Path, column: str) -> Iterator[object]:
    """Yield the values of one column of a .jsonl, .json, .parquet or .csv file, row by row.

    Raises SourceError for a column that is not there and for a file that is not what its name says.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet_column(path, column)
            return
        rows: Iterator[object] = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise SourceError(f"{path}, row {number}: not an object with named columns but {type(row).__name__}.")
            require_column(column, row, f"{path}, row {number}")
            yield row[column]
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{path}: not a readable {path.suffix} file ({error}). Mend it, or leave it out.") from error


def require_column(column: str, columns: Iterable[str], where: str) -> None:
    """Raise SourceError unless `column` is among `columns`; the message names them and the nearest."""
    known = [str(name) for name in columns]
    if column not in known:
        raise SourceError(
            f"{where}: there is no column {column!r}; there {'is' if len(known) == 1 else 'are'} "
            f"{', '.join(known) or 'none at all'}{suggest(column, known) or '.'} "
            "Set dataset.column (or dataset.tokens_column for token ids, dataset.messages_column for conversations)."
        )


def _parquet_column(path: Path, column: str) -> Iterator[object]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        require_column(column, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            yield from batch.column(0).to_pylist()


def _csv_rows(path: Path) -> Iterator[Mapping[str, object]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses documents of more than 131,072 characters
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


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
