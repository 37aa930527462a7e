"""Local files of text and of tables: those that a path stands for, and the digest that is their identity."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lmsae.errors import SourceError

TABLES = frozenset({".jsonl", ".json", ".parquet", ".csv"})
TEXTS = frozenset({".txt", ".md"})
READABLE = f"readable are {', '.join(sorted(TABLES | TEXTS))}"
WAYS_OUT = (
    f"Set dataset.name to the right hub name, to a local file or folder ({READABLE}), or to builtin:python-stdlib, "
    "which needs no network."
)
"""The end of an error message about a text that cannot be found."""

CARDS = ("README.md", "dataset_infos.json", ".huggingface.yaml")
"""Files beside tables that may say which table belongs to which split. They are part of the text's identity."""
_NO_DATA = frozenset({*CARDS, "config.json", "dataset_info.json", "dataset_dict.json", "state.json"})
"""Files that say something about tables and are none."""
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z"})
_UNREADABLE = _PACKED | {".arrow", ".feather", ".tsv", ".ndjson", ".orc", ".avro", ".lance", ".vortex"}
"""Suffixes of data that other tools read as tables, and lmsae does not."""
_SHOWN = 3


@dataclass(frozen=True)
class LocalFiles:
    """The files that a local path stands for, sorted by name: those that hold text, all of one kind, and cards."""

    path: Path
    data: Sequence[Path]
    cards: Sequence[Path] = field(default=())

    @property
    def holds_tables(self) -> bool:
        """True for a folder of tables, which is a dataset with splits."""
        return self.path.is_dir() and self.data[0].suffix in TABLES

    @property
    def all(self) -> list[Path]:
        """Every file that decides what the text is, in the order of their names."""
        return sorted([*self.data, *self.cards], key=self.name_of)

    def name_of(self, file: Path) -> str:
        """The name of a file within the path."""
        return file.name if file == self.path else file.relative_to(self.path).as_posix()


def local_files(path: Path) -> LocalFiles:
    """The files that a local path stands for. Hidden files and files of no data count for nothing.

    Raises SourceError where there is no text, where a folder holds files of several kinds, and for data that would be
    passed over.
    """
    if path.is_file():
        if path.suffix not in TABLES | TEXTS:
            raise SourceError(
                f"{path}: not a file of text that can be read; {READABLE}. {_unpack([path])}, or leave it out."
            )
        return LocalFiles(path, [path])
    visible = sorted(_visible_files(path), key=lambda file: file.relative_to(path).as_posix())
    unreadable = [file for file in visible if _is_unreadable_data(file)]
    readable = [file for file in visible if file.suffix in TABLES | TEXTS and file not in unreadable]
    tables = [file for file in readable if file.suffix in TABLES and file.name not in _NO_DATA]
    texts = [file for file in readable if file.suffix in TEXTS and not (tables and file.name in CARDS)]
    cards = [card for name in CARDS if (card := path / name).is_file()] if tables else []
    if unreadable:
        raise SourceError(
            f"{path}: {_show(path, unreadable)} cannot be read ({READABLE}), so part of the text would be missing. "
            f"{_unpack(unreadable)} or move what is not to be read out of the folder{_or_name(tables or texts)}."
        )
    if not tables and not texts:
        raise SourceError(
            f"{path}: no text that can be read here; {READABLE}. Set dataset.name to such a file or folder."
        )
    kinds = sorted(_kinds([*tables, *texts]).items(), key=lambda kind: -len(kind[1]))
    if len(kinds) > 1:
        found = " and ".join(f"{kind} ({_show(path, files)})" for kind, files in kinds)
        (_, most), *others = kinds
        raise SourceError(
            f"{path}: the folder holds {found}, and only files of one kind are read together. Move what is not to be "
            f"read out of the folder, such as {_show(path, others[-1][1])}{_or_name(most)}."
        )
    return LocalFiles(path, tables or texts, cards)


def digest_of_files(files: LocalFiles) -> str:
    """The identity of a local text: sha256 over names and bytes of its files, in the order of their names."""
    total = hashlib.sha256()
    for file in files.all:
        name = files.name_of(file).encode()
        for number in (len(name), file.stat().st_size):
            total.update(number.to_bytes(8, "big"))
        total.update(name)
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                total.update(block)
    return total.hexdigest()


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, opened without a byte order mark. Raises SourceError where it is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text ({error.reason}). Convert it, or leave it out.") from None


def _visible_files(path: Path) -> Iterator[Path]:
    for file in path.rglob("*"):
        if not any(part.startswith(".") for part in file.relative_to(path).parts) and file.is_file():
            yield file


def _is_unreadable_data(file: Path) -> bool:
    """True for data that lmsae cannot read, and for a table behind a further suffix, such as `a.jsonl.bak`."""
    return file.suffix.lower() in _UNREADABLE or (file.suffix not in TABLES and bool(TABLES & {*file.suffixes[:-1]}))


def _kinds(files: Sequence[Path]) -> dict[str, list[Path]]:
    kinds = defaultdict[str, list[Path]](list)
    for file in files:
        kinds["text files" if file.suffix in TEXTS else f"{file.suffix} files"].append(file)
    return kinds


def _show(path: Path, files: Sequence[Path]) -> str:
    """The names of the first files, for an error message."""
    shown = ", ".join(file.relative_to(path).as_posix() for file in files[:_SHOWN])
    return shown if len(files) <= _SHOWN else f"{shown}, ..."


def _or_name(files: Sequence[Path]) -> str:
    """The end of a way out: the one file that `dataset.name` may name by itself."""
    return f", or set dataset.name to {files[0]}" if len(files) == 1 else ""


def _unpack(files: Sequence[Path]) -> str:
    """The way to make unreadable data readable."""
    packed = [file for file in files if file.suffix.lower() in _PACKED]
    return f"Unpack {packed[0].name}" if packed else "Write it as .jsonl or .parquet"
