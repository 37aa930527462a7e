"""The splits of datasets, on the hub or in local folders that are laid out like them, by the `datasets` library.

The library decides which tables of a local folder belong to a split. Their rows it does not read: it would read all
columns, ask each to have one type in all files, and take text such as `NA` or `2020-01-01` for something else.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from lmsae.errors import LmsaeError, SourceError, suggest
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.files import WAYS_OUT, LocalFiles
from lmsae.text.table_files import require_column

_ORDINARY = frozenset({"name", "version", "description", "data_dir", "data_files", "features"})
"""Settings of a subset that say where its tables are, or nothing about how they are read."""


def files_of_split(dataset: DatasetConfig, files: LocalFiles) -> list[Path]:
    """The tables of a local folder that belong to a split, in the order in which the `datasets` library reads them.

    Raises SourceError for a subset or split that is not there, and for a file that the text's identity does not cover.
    """
    import datasets

    with _explain(dataset), tempfile.TemporaryDirectory() as cache:
        builder = datasets.load_dataset_builder(str(files.path), dataset.subset, cache_dir=cache)
    settings, plain = builder.config, type(builder.config)()
    by_split = {str(split): [Path(file) for file in found] for split, found in (settings.data_files or {}).items()}
    if dataset.split not in by_split:
        hint = suggest(dataset.split, by_split) or "."
        raise SourceError(f"{_where(dataset)}: there is no such split; there is {', '.join(by_split)}{hint}")
    names = [one.name for one in fields(settings) if one.name not in _ORDINARY]
    if changed := [name for name in names if getattr(settings, name) != getattr(plain, name)]:
        raise SourceError(
            f"{files.path}: its README.md sets {', '.join(changed)}, but lmsae reads tables as they are by default. "
            "Write them anew so, and leave that out of README.md."
        )
    known = {file.resolve() for file in files.data}
    for file in by_split[dataset.split]:
        if file.resolve() not in known:
            raise SourceError(
                f"{files.path}: {file} belongs to split {dataset.split!r}, but it is none of the folder's own "
                f"{files.data[0].suffix} files. A change of it would go unnoticed: copy it there, or leave it out."
            )
    return by_split[dataset.split]


def read_split(dataset: ResolvedDataset, name: str, *, commit: str) -> Iterator[object]:
    """Yield the values of a column of the hub's dataset `name` at a commit, row by row.

    Code that a dataset brings along is never run. Raises SourceError for whatever the library cannot read.
    """
    import datasets

    column = dataset.values_column
    with _explain(dataset):
        builder = datasets.load_dataset_builder(name, dataset.subset, revision=commit)
        if builder.hash != commit:  # offline, the library takes whichever commit it cached last
            raise SourceError(
                f"dataset.name {name!r}: commit {commit} cannot be reached, the cache holds {builder.hash}. "
                "Set dataset.revision to that, or run where the hub can be reached."
            )
        if dataset.streaming:
            rows = builder.as_streaming_dataset(split=dataset.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=dataset.split)
        assert isinstance(rows, datasets.IterableDataset | datasets.Dataset), "one split is one dataset"
        if rows.column_names:
            require_column(column, rows.column_names, name)
            rows = rows.select_columns([column])
        for row in rows:
            assert isinstance(row, dict), "a row is a dict from columns to values"
            require_column(column, row, name)
            yield row[column]


@contextmanager
def _explain(dataset: DatasetConfig) -> Iterator[None]:
    """Turns what the library raises into SourceError, and hides its progress bars."""
    try:
        with _hide_progress_bars():
            yield
    except LmsaeError:
        raise
    except Exception as error:  # its own, pyarrow's, fsspec's and the HTTP library's: no common root
        cause = " ".join(str(error.__cause__ or error).split())
        raise SourceError(f"{_where(dataset)}: the datasets library cannot read it ({cause}). {WAYS_OUT}") from error


def _where(dataset: DatasetConfig) -> str:
    return f"dataset.name {dataset.name!r}, subset {dataset.subset!r}, split {dataset.split!r}"


@contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """The datasets library without its own progress bars, for the length of a block."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
