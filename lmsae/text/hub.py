"""Datasets of the Hugging Face hub, and local folders laid out like one, read through the `datasets` library."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmsae.errors import LmsaeError, SourceError
from lmsae.text.files import READABLE, require_column

COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 5.0  # seconds that the hub gets to answer: a plan must not hang on it


def commit_of(name: str, revision: str | None) -> str:
    """The commit sha of a hub dataset's revision: asked of the hub, or of the local cache when that cannot be reached.

    Raises SourceError when neither knows it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    at = f"dataset.name {name!r}"
    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=PATIENCE).sha
    except HFValidationError:
        raise SourceError(
            f"{at}: no such local file or folder, and no possible name on the hub. {_ways_out()}"
        ) from None
    except GatedRepoError:
        raise SourceError(
            f"{at}: the hub asks for access first. Accept its terms there, then `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise SourceError(f"{at}: the dataset has no revision {revision!r}. Set dataset.revision.") from None
    except RepositoryNotFoundError:
        raise SourceError(f"{at}: neither a local file or folder nor a dataset on the hub. {_ways_out()}") from None
    except Exception as error:  # the client's HTTP library, and with it the errors of a dead network, varies by version
        commit = _cached_commit(name, revision)
        if commit is None:
            raise SourceError(
                f"{at}: no such local file or folder, the hub cannot be asked ({str(error).splitlines()[0]}), and its "
                f"local cache does not hold it. {_ways_out()}"
            ) from error
    assert commit is not None, "the hub names the commit of every revision"
    return commit


def dataset_values(
    name: str, *, subset: str | None, split: str, commit: str | None, streaming: bool, column: str
) -> Iterator[Any]:
    """Yield one column of a dataset row by row; `name` is whatever `load_dataset` takes, `commit` None if local.

    Code that a dataset brings along is never run. Raises SourceError for whatever the library cannot read.
    """
    import datasets

    try:
        with _quiet():
            builder = datasets.load_dataset_builder(name, subset, revision=commit)
            if commit and builder.hash != commit:  # offline, the library takes whichever commit it cached last
                raise SourceError(
                    f"dataset.name {name!r}: commit {commit} cannot be reached, the cache holds {builder.hash}. "
                    "Set dataset.revision to that, or run where the hub can be reached."
                )
            rows: Any
            if streaming:
                rows = builder.as_streaming_dataset(split=split)
            else:
                builder.download_and_prepare()
                rows = builder.as_dataset(split=split)
            if rows.column_names:
                require_column(column, rows.column_names, name)
                rows = rows.select_columns([column])
            for row in rows:
                require_column(column, row, name)
                yield row[column]
    except LmsaeError:
        raise
    except Exception as error:  # its own, pyarrow's, fsspec's and the HTTP library's: no common root
        cause = " ".join(str(error.__cause__ or error).split())
        where = f"dataset.name {name!r}, subset {subset!r}, split {split!r}"
        raise SourceError(f"{where}: the datasets library cannot read it ({cause}). {_ways_out()}") from error


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit that the local hub cache holds of a revision; without one, of `main`, or else the newest."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text().strip()
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda path: (path.stat().st_mtime, path.name))
    return snapshots[-1].name if snapshots and revision is None else None


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the library's own."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _ways_out() -> str:
    return (
        "Set dataset.name to the right hub name, to a local file or folder "
        f"({READABLE}), or to builtin:python-stdlib, which needs no network."
    )
