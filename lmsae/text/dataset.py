"""Where text comes from: what the user names, what that is at this moment, and the documents it holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

import lmsae.text.documents
import lmsae.text.stdlib
from lmsae.config import Frozen, canonical_json, key_of
from lmsae.errors import SourceError, suggest
from lmsae.text import files, hub, othello
from lmsae.text import records as rows
from lmsae.text.documents import AnyDocument, Document, digest_of
from lmsae.text.mixing import Part, is_mixture, parts_of
from lmsae.text.stdlib import stdlib_documents, stdlib_files

STDLIB = "builtin:python-stdlib"
OTHELLO = "builtin:othello"

# Called with a key that changes whenever the files do, and the function that reads them all to make the digest.
DigestCache = Callable[[str, Callable[[], str]], str]


class DatasetConfig(Frozen):
    """The text, as the user names it."""

    name: str = Field(
        default=STDLIB,
        min_length=1,
        description="The text. `builtin:python-stdlib` is the library of the running Python. `builtin:othello` makes "
        "random legal games, as token ids of Othello-GPT. Other names are a dataset of the Hugging Face hub "
        "(`owner/name`), a local file (.jsonl, .json, .parquet, .csv, .txt, .md), or a local folder. A folder with "
        "tables is read as a dataset with splits; a folder of text files holds one document a file. A mixture of "
        "several texts is written `0.7*NAME 0.3*NAME?split=test&messages_column=chat`. The weights are shares of the "
        "tokens. Columns of `dataset` after `?` hold for this text only; the others hold for all.",
    )
    subset: str | None = Field(default=None, description="Configuration of a hub dataset that has several.")
    split: str = Field(
        default="train",
        min_length=1,
        description="Split of a dataset to read. Held-out documents are chosen within it, by their names.",
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a hub dataset. Empty: its `main` at the time of planning.",
    )
    column: str = Field(default="text", min_length=1, description="Column that holds the text.")
    tokens_column: str | None = Field(
        default=None,
        description="Column that holds lists of token ids. If given, it is read instead of text, and nothing is "
        "tokenized.",
    )
    messages_column: str | None = Field(
        default=None,
        description="Column that holds conversations: lists of messages with a `role` and a `content`. If given, it is "
        "read instead of text, and the tokenizer's chat template writes the text (see tokenize.chat_tokens).",
    )
    streaming: bool = Field(
        default=False,
        description="Read a dataset over the network as it is needed, instead of downloading it first. Reading stops "
        "once tokenize.tokens and tokenize.held_out_tokens are reached.",
    )
    documents: int | None = Field(
        default=None, ge=1, description="Largest number of documents to read, from the first on. Empty: all."
    )

    seed: int = Field(default=0, ge=0, description="Seed of the games of builtin:othello.")

    @field_validator("name")
    @classmethod
    def _is_a_known_builtin(cls, name: str) -> str:
        if name.startswith("builtin:") and name not in (STDLIB, OTHELLO):
            raise ValueError(f"there is no text {name!r} built in; there are {STDLIB} and {OTHELLO}")
        return name

    @model_validator(mode="after")
    def _holds_one_kind(self) -> Self:
        if self.tokens_column is not None and self.messages_column is not None:
            raise ValueError("a text has either a tokens_column or a messages_column; leave one of them empty")
        return self

    @property
    def holds_ids(self) -> bool:
        """Whether its documents are token ids already."""
        return self.tokens_column is not None or self.name == OTHELLO


class ResolvedDataset(DatasetConfig):
    """A text pinned to what it was when planned."""

    digest: str = Field(description="The text's identity: a digest of the documents or files, or the hub's commit.")

    def weighted(self) -> list[tuple[float, "ResolvedDataset"]]:
        """Itself, as the only part of a mixture."""
        return [(1.0, self)]


class WeightedDataset(Frozen):
    """A text of a mixture and its share of the tokens."""

    weight: float
    dataset: ResolvedDataset


class ResolvedMixture(Frozen):
    """Several texts, each pinned to what it was when planned; their order is not that in which they were written."""

    name: str = Field(description="The mixture as one could write it.")
    sources: tuple[WeightedDataset, ...]

    def weighted(self) -> list[tuple[float, ResolvedDataset]]:
        """The texts with their shares, which add up to one."""
        return [(source.weight, source.dataset) for source in self.sources]


def compute_now(key: str, compute: Callable[[], str]) -> str:
    """The digest cache that remembers nothing."""
    return compute()


def resolve(config: DatasetConfig, cached: DigestCache = compute_now) -> ResolvedDataset | ResolvedMixture:
    """Pin what the user named to a digest: of its documents (built in), its files (local) or its commit (hub).

    `cached(key, compute)` may return an earlier result for the same key, which is made of the path, size and
    modification time of every file that the digest depends on. Raises SourceError when a text cannot be found.
    """
    if not is_mixture(config.name):
        return _resolve_one(config, cached)
    parts = parts_of(config.name)
    resolved = [(part.weight, _resolve_one(_config_of(part, config), cached)) for part in parts]
    if len(resolved) == 1:
        return resolved[0][1]
    resolved.sort(key=lambda part: (part[1].name, canonical_json(part[1])))
    for (_, one), (_, next_one) in pairwise(resolved):
        if one == next_one:
            raise SourceError(f"dataset.name: {one.name!r} stands twice in the mixture. Add its weights up.")
    sources = tuple(WeightedDataset(weight=weight, dataset=dataset) for weight, dataset in resolved)
    name = " ".join(f"{weight:.4g}*{dataset.name}" for weight, dataset in resolved)
    return ResolvedMixture(name=name, sources=sources)


def _config_of(part: Part, shared: DatasetConfig) -> DatasetConfig:
    """What a mixture says of one text, over the `dataset.*` columns that hold for all."""
    known = [name for name in DatasetConfig.model_fields if name != "name"]
    for name in part.fields:
        if name not in known:
            raise SourceError(
                f"dataset.name: {part.name}?{name}: there is no such column of `dataset`"
                f"{suggest(name, known) or '; there are ' + ', '.join(known)}"
            )
    fields: Mapping[str, Any] = {name: value or None for name, value in part.fields.items()}
    try:
        return DatasetConfig.model_validate({**shared.model_dump(), "name": part.name, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{part.name}?{'.'.join(map(str, first['loc']))}={first['input']}" if first["loc"] else part.name
        raise SourceError(f"dataset.name: {where}: {first['msg']}") from None


def _resolve_one(config: DatasetConfig, cached: DigestCache) -> ResolvedDataset:
    path = Path(config.name).expanduser()
    if config.name != OTHELLO:
        _refuse(config, "seed")
    if config.name == STDLIB:
        _refuse(config, *_COLUMNS_OF_TABLES, *_COLUMNS_OF_VALUES)
        # What counts as a document is decided by lmsae's own code: when that changes, so may the digest.
        rules = [Path(str(module.__file__)) for module in (lmsae.text.documents, lmsae.text.stdlib)]
        digest = cached(_key([*rules, *stdlib_files()]), lambda: digest_of(stdlib_documents()))
    elif config.name == OTHELLO:
        _refuse(config, *_COLUMNS_OF_TABLES, *_COLUMNS_OF_VALUES)
        if config.documents is None:
            raise SourceError(f"dataset.name {OTHELLO}: set dataset.documents to the number of games to play.")
        digest = othello.digest_of_games(config.seed)
    elif path.exists():
        _refuse(config, "revision", *([] if files.holds_tables(path) else ["subset", "split", "streaming"]))
        digest = cached(_key(files.local_files(path)), lambda: files.digest_of_files(path))
    elif config.name.startswith(("/", ".", "~")) or path.suffix in files.TABLES | files.TEXTS:
        beside = [str(path.parent / entry.name) for entry in path.parent.glob("*")]
        raise SourceError(
            f"dataset.name {config.name!r}: there is no such file or folder{suggest(str(path), beside) or '.'}"
        )
    else:
        digest = hub.commit_of(config.name, config.revision)
    return ResolvedDataset(**config.model_dump(), digest=digest)


def documents(dataset: ResolvedDataset) -> Iterator[AnyDocument]:
    """Yield the documents of a resolved text in the order of the source; blank ones are passed over.

    A file is named by its path within `dataset.name`, a row of a file by that and its number, a row of a dataset by
    its number. Raises SourceError for a missing column, for values that are not text, when there is no text, and
    when the text is not what was planned any more.
    """
    _require_unchanged(dataset)
    empty = True
    for document in islice(_read(dataset), dataset.documents):
        if not document.is_blank:
            empty = False
            yield document
    if empty:
        what = f"column {_column(dataset)!r} of split {dataset.split!r}"
        raise SourceError(f"dataset.name {dataset.name!r}: no text in it ({what}): every document is empty.")


def _require_unchanged(dataset: ResolvedDataset) -> None:
    """Raise SourceError where files changed since the plan: what is made of them must not bear the old text's key."""
    path = Path(dataset.name).expanduser()
    if dataset.name == STDLIB:
        found = digest_of(stdlib_documents())
    elif dataset.name == OTHELLO:
        found = othello.digest_of_games(dataset.seed)
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


def _column(dataset: DatasetConfig) -> str:
    """The column that is read."""
    return dataset.tokens_column or dataset.messages_column or dataset.column


def _read(dataset: ResolvedDataset) -> Iterator[AnyDocument]:
    path = Path(dataset.name).expanduser()
    if dataset.name == STDLIB:
        yield from stdlib_documents()
    elif dataset.name == OTHELLO:
        yield from othello.othello_games(dataset.seed)
    elif not path.exists() or files.holds_tables(path):
        yield from _dataset_documents(dataset, path)
    else:
        for file in files.local_files(path):
            yield from _file_documents(dataset, file, files.name_in(path, file))


def _dataset_documents(dataset: ResolvedDataset, path: Path) -> Iterator[AnyDocument]:
    values = hub.dataset_values(
        str(path) if path.exists() else dataset.name,
        subset=dataset.subset,
        split=dataset.split,
        commit=None if path.exists() else dataset.digest,
        streaming=dataset.streaming,
        column=_column(dataset),
    )
    for row, value in enumerate(values):
        yield _document(dataset, str(row), value)


def _file_documents(dataset: ResolvedDataset, file: Path, name: str) -> Iterator[AnyDocument]:
    if file.suffix in files.TABLES:
        for row, value in enumerate(files.read_column(file, _column(dataset))):
            yield _document(dataset, f"{name}:{row}", value)
    elif dataset.tokens_column or dataset.messages_column:
        name = "tokens_column" if dataset.tokens_column else "messages_column"
        raise SourceError(f"{file}: a text file has no column {_column(dataset)!r}. Leave dataset.{name} empty.")
    else:
        yield Document(name, files.read_text(file))


def _document(dataset: ResolvedDataset, name: str, value: Any) -> AnyDocument:
    """One row as a document of the kind that its column holds."""
    where = f"dataset.name {dataset.name!r}, row {name}, column {_column(dataset)!r}"
    if dataset.tokens_column:
        return rows.token_document(name, value, where)
    if dataset.messages_column:
        return rows.chat_document(name, value, where)
    return rows.text_document(name, value, where)


_COLUMNS_OF_TABLES = ("subset", "split", "revision", "streaming")
_COLUMNS_OF_VALUES = ("column", "tokens_column", "messages_column")
