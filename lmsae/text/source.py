"""Where text comes from: what the user names, what that is at this moment, and the documents it holds."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

import lmsae.text.documents
import lmsae.text.stdlib
from lmsae.config import Frozen, canonical_json, key_of
from lmsae.errors import SourceError, nearest
from lmsae.text import files, hub
from lmsae.text.documents import Document, TokenDocument, digest_of
from lmsae.text.stdlib import stdlib_documents, stdlib_files

STDLIB = "builtin:python-stdlib"

# Called with a key that changes whenever the files do, and the function that reads them all to make the digest.
DigestCache = Callable[[str, Callable[[], str]], str]


class DatasetConfig(Frozen):
    """The text, as the user names it."""

    name: str = Field(
        default=STDLIB,
        min_length=1,
        description="The text: `builtin:python-stdlib` (the running Python's own library), a dataset of the Hugging "
        "Face hub (`owner/name`), a local file (.jsonl, .json, .parquet, .csv, .txt, .md), or a local folder. A folder "
        "with tables in it is read as a dataset with splits; one of text files holds one document a file.",
    )
    subset: str | None = Field(default=None, description="Configuration of a hub dataset, if it has several.")
    split: str = Field(
        default="train",
        min_length=1,
        description="Split of a dataset to read. Held-out documents are set aside from it by name.",
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a hub dataset; empty means its `main` as it is when planned.",
    )
    column: str = Field(default="text", min_length=1, description="Column that holds the text.")
    tokens_column: str | None = Field(
        default=None,
        description="Column that holds lists of token ids; if given, it is read instead of text and not tokenised.",
    )
    streaming: bool = Field(
        default=False,
        description="Read a dataset over the network as it is needed instead of downloading it first, and stop as soon "
        "as tokenize.tokens and tokenize.held_out_tokens are reached.",
    )
    documents: int | None = Field(
        default=None, ge=1, description="At most so many documents are read, from the first on; empty means all."
    )

    @field_validator("name")
    @classmethod
    def _is_a_known_builtin(cls, name: str) -> str:
        if name.startswith("builtin:") and name != STDLIB:
            raise ValueError(f"there is no text {name!r} built in; the only one is {STDLIB}")
        return name


class ResolvedDataset(DatasetConfig):
    """A text pinned to what it was when planned."""

    digest: str = Field(description="The text's identity: a digest of the documents or files, or the hub's commit.")


def compute_now(key: str, compute: Callable[[], str]) -> str:
    """The digest cache that remembers nothing."""
    return compute()


def resolve(config: DatasetConfig, cached: DigestCache = compute_now) -> ResolvedDataset:
    """Pin what the user named to a digest: of its documents (built in), its files (local) or its commit (hub).

    `cached(key, compute)` may return an earlier result for the same key, which is made of the path, size and
    modification time of every file that the digest depends on. Raises SourceError when the text cannot be found.
    """
    path = Path(config.name).expanduser()
    if config.name == STDLIB:
        _refuse(config, "subset", "split", "revision", "column", "tokens_column", "streaming")
        # What counts as a document is decided by lmsae's own code: when that changes, so may the digest.
        rules = [Path(str(module.__file__)) for module in (lmsae.text.documents, lmsae.text.stdlib)]
        digest = cached(_key([*rules, *stdlib_files()]), lambda: digest_of(stdlib_documents()))
    elif path.exists():
        _refuse(config, "revision", *([] if files.holds_tables(path) else ["subset", "split", "streaming"]))
        digest = cached(_key(files.local_files(path)), lambda: files.digest_of_files(path))
    elif config.name.startswith(("/", ".", "~")) or path.suffix in files.TABLES | files.TEXTS:
        beside = [str(path.parent / entry.name) for entry in path.parent.glob("*")]
        raise SourceError(
            f"dataset.name {config.name!r}: there is no such file or folder{nearest(str(path), beside) or '.'}"
        )
    else:
        digest = hub.commit_of(config.name, config.revision)
    return ResolvedDataset(**config.model_dump(), digest=digest)


def documents(dataset: ResolvedDataset) -> Iterator[Document | TokenDocument]:
    """Yield the documents of a resolved text in the order of the source; blank ones are passed over.

    A file is named by its path within `dataset.name`, a row of a file by that and its number, a row of a dataset by
    its number. Raises SourceError for a missing column, for values that are not text, when there is no text, and
    when the text is not what was planned any more.
    """
    _require_unchanged(dataset)
    empty = True
    for document in islice(_read(dataset), dataset.documents):
        content = document.text.strip() if isinstance(document, Document) else document.ids
        if len(content):
            empty = False
            yield document
    if empty:
        what = f"column {dataset.tokens_column or dataset.column!r} of split {dataset.split!r}"
        raise SourceError(f"dataset.name {dataset.name!r}: no text in it ({what}): every document is empty.")


def _require_unchanged(dataset: ResolvedDataset) -> None:
    """Raise SourceError where files changed since the plan: what is made of them must not bear the old text's key."""
    path = Path(dataset.name).expanduser()
    if dataset.name == STDLIB:
        found = digest_of(stdlib_documents())
    elif path.exists():
        found = files.digest_of_files(path)
    else:
        return  # a commit of the hub cannot change
    if found != dataset.digest:
        raise SourceError(
            f"dataset.name {dataset.name!r}: the text is not the one that was planned (its digest is {found[:16]}, "
            f"planned was {dataset.digest[:16]}). Plan again: `lmsae plan`, or run the workflow again."
        )


def _refuse(config: DatasetConfig, *columns: str) -> None:
    """Raise SourceError where the user set a column that means nothing for this kind of text."""
    given = [name for name in columns if getattr(config, name) != DatasetConfig.model_fields[name].default]
    if given:
        raise SourceError(
            f"dataset.name {config.name!r}: such a text has no {', '.join(f'dataset.{name}' for name in given)}; "
            "leave that empty."
        )


def _key(paths: Sequence[Path]) -> str:
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return key_of(canonical_json(states))


def _read(dataset: ResolvedDataset) -> Iterator[Document | TokenDocument]:
    path = Path(dataset.name).expanduser()
    if dataset.name == STDLIB:
        yield from stdlib_documents()
    elif not path.exists() or files.holds_tables(path):
        yield from _dataset_documents(dataset, path)
    else:
        for file in files.local_files(path):
            yield from _file_documents(dataset, file, files.name_in(path, file))


def _dataset_documents(dataset: ResolvedDataset, path: Path) -> Iterator[Document | TokenDocument]:
    values = hub.dataset_values(
        str(path) if path.exists() else dataset.name,
        subset=dataset.subset,
        split=dataset.split,
        commit=None if path.exists() else dataset.digest,
        streaming=dataset.streaming,
        column=dataset.tokens_column or dataset.column,
    )
    for row, value in enumerate(values):
        yield _document(dataset, str(row), value)


def _file_documents(dataset: ResolvedDataset, file: Path, name: str) -> Iterator[Document | TokenDocument]:
    if file.suffix in files.TABLES:
        for row, value in enumerate(files.read_column(file, dataset.tokens_column or dataset.column)):
            yield _document(dataset, f"{name}:{row}", value)
    elif dataset.tokens_column:
        raise SourceError(
            f"{file}: a text file has no column {dataset.tokens_column!r}. Leave dataset.tokens_column empty."
        )
    else:
        yield Document(name, files.read_text(file))


def _document(dataset: ResolvedDataset, name: str, value: Any) -> Document | TokenDocument:
    """One row as a document; nothing in a row's column counts as an empty document."""
    where = f"dataset.name {dataset.name!r}, row {name}, column {dataset.tokens_column or dataset.column!r}"
    if dataset.tokens_column:
        ids = [] if value is None else value
        if not isinstance(ids, Sequence) or isinstance(ids, str) or not all(type(i) is int and i >= 0 for i in ids):
            raise SourceError(f"{where}: expected a list of token ids, found {_shown(value)}.")
        return TokenDocument(name, ids)
    if value is not None and not isinstance(value, str):
        raise SourceError(f"{where}: expected text, found {_shown(value)}. Is it dataset.tokens_column you want?")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: half a surrogate pair at character {error.start:,}, which is no text.") from None
    return Document(name, value or "")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
