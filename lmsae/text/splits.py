"""The splits of datasets, on the hub or in local folders that are laid out like them, by the `datasets` library."""

from collections.abc import Iterator
from contextlib import contextmanager

from lmsae.errors import LmsaeError, SourceError
from lmsae.text.dataset import ResolvedDataset
from lmsae.text.files import WAYS_OUT, require_column


def read_split(dataset: ResolvedDataset, name: str, *, commit: str | None) -> Iterator[object]:
    """Yield the values of a dataset's column, row by row. `load_dataset` takes `name`; `commit` is None if it is local.

    Code that a dataset brings along is never run. Raises SourceError for whatever the library cannot read.
    """
    import datasets

    column = dataset.values_column
    try:
        with _hide_progress_bars():
            builder = datasets.load_dataset_builder(name, dataset.subset, revision=commit)
            if commit and builder.hash != commit:  # offline, the library takes whichever commit it cached last
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
    except LmsaeError:
        raise
    except Exception as error:  # its own, pyarrow's, fsspec's and the HTTP library's: no common root
        cause = " ".join(str(error.__cause__ or error).split())
        where = f"dataset.name {name!r}, subset {dataset.subset!r}, split {dataset.split!r}"
        raise SourceError(f"{where}: the datasets library cannot read it ({cause}). {WAYS_OUT}") from error


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
