"""A source of own activations: a name, pinned to the bytes that it stands for, in the place of a language model. The
token ids beside them are one, too."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lmsae.config import JsonObject, canonical_json, key_of
from lmsae.errors import ChangedSource
from lmsae.lm.resolving import ResolvedModel, sha256_of_file
from lmsae.vectors.headers import VECTORS, Contents, Header, read_header

SCHEME = "file:"
MODEL_TYPE = "file"
"""Stands in the config of such a source in the place of a model's family."""
DigestLookup = Callable[[str, Callable[[], str]], str]


def is_source(model: ResolvedModel) -> bool:
    """True if what stands in a model's place is a source of own activations."""
    return model.name.startswith(SCHEME)


def path_of(model: ResolvedModel) -> str:
    """The path as it was written, with the tensor's name behind it if one was."""
    return model.name.removeprefix(SCHEME)


def header_of(model: ResolvedModel, contents: Contents = VECTORS) -> Header:
    """The header of a source. Raises SourceError if it cannot be read."""
    return read_header(path_of(model), contents)


def config_of(model: ResolvedModel) -> JsonObject:
    """The config that stands in the place of a model's config.json."""
    header = header_of(model)
    return {"model_type": MODEL_TYPE, "width": header.width, "vocab_size": 0}


def resolve(name: str, look_up: DigestLookup, contents: Contents = VECTORS) -> tuple[ResolvedModel, Header]:
    """Pin a path to its bytes. `look_up(key, compute)` may return an earlier result for the same key, which changes
    whenever a file does."""
    header = read_header(name, contents)
    digest = look_up(key_of_states(states_of(header)), lambda: digest_of(header))
    return ResolvedModel(name=f"{SCHEME}{name}", revision=digest), header


def require_unchanged(model: ResolvedModel, contents: Contents = VECTORS) -> Header:
    """The header of a source whose every byte is as it was planned. Raises ChangedSource."""
    header = header_of(model, contents)
    found = digest_of(header)
    if found != model.revision:
        raise ChangedSource(
            f"{path_of(model)}: the files are not those that were planned (they are {found}, planned was "
            f"{model.revision}). Plan again: `lmsae plan`, or run the workflow again"
        )
    return header


def require_same_states(model: ResolvedModel, header: Header, states: "Sequence[State]") -> None:
    """Raise ChangedSource if a file has changed since its source had these states."""
    if states_of(header) != states:
        raise ChangedSource(f"{path_of(model)}: the files changed while they were read. Plan again: `lmsae plan`")


State = tuple[str, int, int]


def states_of(header: Header) -> list[State]:
    """Path, size and modification time of every file."""
    return [(str(one.resolve()), (stat := one.stat()).st_size, stat.st_mtime_ns) for one in header.files]


def key_of_states(states: Sequence[State]) -> str:
    """A key that changes whenever a file does."""
    return key_of(canonical_json(["vectors", *states]))


def digest_of(header: Header) -> str:
    """`digest:` and 16 digits of what `sha256sum FILES | sha256sum` prints for all files, sorted by name."""
    lines = "".join(f"{sha256_of_file(file)}  {_name(file, header.root)}\n" for file in header.files)
    return f"digest:{hashlib.sha256(lines.encode()).hexdigest()[:16]}"


def _name(file: Path, root: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()
