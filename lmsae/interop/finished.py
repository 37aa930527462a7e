"""A finished dictionary, trained here or elsewhere: what it is, and what it says of its origin. No torch.

It is named by its content, whoever has it where: a folder by the digest of the files that are read, a repository of the
hub by its commit and the folder in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import FolderError

Format = Literal["lmsae", "saelens", "dictionary_learning", "sparsify", "openmoss"]
FILES: dict[Format, tuple[str, str]] = {
    "lmsae": ("dictionary.json", "dictionary.safetensors"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "openmoss": ("config.json", "sae_weights.safetensors"),
}
"""The files of each format that are read: its config and its weights."""


class Repository(Frozen):
    """A folder of a repository on the hub at a commit; "" is the repository itself."""

    name: str
    commit: str
    folder: str = ""


class Release(Frozen):
    """An entry of SAELens' table of releases. SAELens reads it, and lmsae what SAELens then writes."""

    name: str
    entry: str

    def __str__(self) -> str:
        return f"{self.name}:{self.entry}"


class Content(Frozen):
    """A finished dictionary by what it is. The digest of its files, or else its repository, says which bytes it has."""

    format: Format
    digest: str | None = None
    repository: Repository | None = None
    release: Release | None = None
    dictionary: DictionaryConfig


class Origin(Frozen):
    """The models and hook points that a dictionary was trained on, as far as it says them, by lmsae's names."""

    models: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


class Description(Frozen):
    """A dictionary by its config alone: its format, what it is, and its origin."""

    format: Format
    dictionary: DictionaryConfig
    origin: Origin


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished dictionary that a row names: its name there, its content, its origin, and its folder if local."""

    name: str
    content: Content
    origin: Origin
    folder: Path | None = None


def format_of(folder: Path) -> Format:
    """The format of the dictionary in a folder, by its files: lmsae's own if it has that beside another. Raises
    FolderError if there is none."""
    found: list[Format] = [kind for kind, (config, weights) in FILES.items() if _has(folder, config, weights)]
    return found[0] if found[:1] == ["lmsae"] or len(found) == 1 else _format_by_config(folder)


def _has(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def _format_by_config(folder: Path) -> Format:
    """The same where the weights that go with a config are not there, or with several: by the fields of the config."""
    import json

    marks: Sequence[tuple[str, Format, Sequence[str]]] = (
        ("dictionary.json", "lmsae", ()),
        ("cfg.json", "saelens", ("architecture", "metadata")),
        ("cfg.json", "sparsify", ("d_in",)),
        ("config.json", "dictionary_learning", ("trainer",)),
        ("config.json", "openmoss", ("sae_type", "hook_point_in", "norm_activation")),
    )
    for name, kind, fields in marks:
        try:
            config = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict) and (not fields or any(field in config for field in fields)):
            return kind
    configs = [name for name in dict.fromkeys(config for config, _ in FILES.values()) if _has(folder, name)]
    wanted = "; ".join(f"{' and '.join(files)} ({kind})" for kind, files in FILES.items())
    if configs:
        raise FolderError(
            f"{folder / configs[0]} is damaged, or the config of no dictionary that lmsae reads; wanted in a folder: "
            f"{wanted}."
        )
    raise FolderError(f"{folder} holds no dictionary; wanted in it: {wanted}.")
