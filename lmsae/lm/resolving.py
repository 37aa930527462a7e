"""Which language model a name means: resolved to something immutable, and its files found. No torch at import.

A name is `builtin:stdlib-4m`, `builtin:features?...` (features.py), a local folder, or a repository of the HuggingFace
hub. A folder's revision is a digest of its files, a hub model's its commit, that of features a digest of their numbers;
so the same name and revision always mean the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmsae.config import Frozen
from lmsae.errors import SourceError, suggest
from lmsae.lm import features
from lmsae.lm.features import Features

STDLIB = "builtin:stdlib-4m"
BUILTIN = {STDLIB: Path(__file__).parent / "stdlib-4m"}

_HUB_SECONDS = 5
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")
_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]


class ResolvedModel(Frozen):
    """A language model that cannot change: a name, and the digest or commit of what it meant."""

    name: str
    revision: str


class NoTokenizer(SourceError):
    """A model has no tokenizer; a text of token ids needs none."""


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(
    name: str, revision: str | None = None, *, digest_of_file: Callable[[Path], str] = sha256_of_file
) -> ResolvedModel:
    """The immutable model that a name, and a revision if one is asked for, mean now.

    `digest_of_file` gives the sha256 of a file in hex; pass one that remembers. Without network, what the hub's local
    cache holds under that name is taken. Raises SourceError if there is no such model, or no way to find out.
    """
    if (known := Features.named(name)) is not None:
        return _resolved_features(known, revision)
    local = _local_folder(name)
    if local is None:
        return ResolvedModel(name=name, revision=_commit_of(name, revision))
    digest = _digest_of_folder(name, local, digest_of_file)
    if revision not in (None, digest):
        raise SourceError(
            f"model {name}: revision {revision} was asked for, but the files in {local} are {digest}; "
            "leave the revision empty to take them as they are"
        )
    return ResolvedModel(name=name, revision=digest)


def features_of(model: ResolvedModel) -> Features | None:
    """The features that a model is made of, or None if it is a language model with weights.

    Raises SourceError if they mean something else here than where they were planned.
    """
    known = Features.named(model.name)
    if known is not None:
        _resolved_features(known, model.revision)
    return known


def lent_tokenizer(model: ResolvedModel) -> str | None:
    """The model whose tokenizer a model without one takes if the user names none, or None if it has its own."""
    return STDLIB if Features.named(model.name) else None


def folder(model: ResolvedModel) -> Path:
    """A local folder with the model's config, weights and tokenizer; a hub model is downloaded at its revision.

    Raises SourceError if they cannot be had, or if there are no safetensors: pickled weights can run code as they load.
    """
    found = _planned_folder(model) or _snapshot(model, [*_TEXT_FILES, "*.safetensors"], is_complete=_has_weights)
    if _has_weights(found):
        return found
    pickles = sorted(path.name for path in found.glob("*.bin"))
    reason = f"only pickled ones ({', '.join(pickles)}), which can run code as they load" if pickles else "none"
    raise SourceError(
        f"model {model.name}: wanted safetensors weights ({_WEIGHTS}, or every file of {_INDEX}), found {reason} in "
        f"{found}; save them with transformers: model.save_pretrained(folder), and name that folder"
    )


def tokenizer_folder(model: ResolvedModel) -> Path:
    """A local folder with the model's tokenizer; of a hub model no weights are downloaded.

    Raises NoTokenizer if there is none: transformers would make up an empty one.
    """
    if Features.named(model.name):
        raise NoTokenizer(f"model {model.name} has no tokenizer; name one: tokenize.tokenizer = {STDLIB}")
    found = _planned_folder(model) or _snapshot(model, _TEXT_FILES, is_complete=_has_tokenizer)
    if _has_tokenizer(found):
        return found
    raise NoTokenizer(
        f"model {model.name}: {found} has no tokenizer ({', '.join(_TOKENIZERS)}); save it there with transformers: "
        "tokenizer.save_pretrained(folder), or name a model that has one in tokenize.tokenizer"
    )


def read_config(model: ResolvedModel) -> dict[str, Any]:
    """The model's config.json; of a hub model nothing else is downloaded."""
    if (known := features_of(model)) is not None:
        return known.config()
    found = _local_folder(model.name) or _snapshot(model, ["config.json"], is_complete=_has_config)
    path = found / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"model {model.name}: {found} has no config.json, so it is no transformers model") from None
    except ValueError as error:
        raise SourceError(f"model {model.name}: {path} is not readable as JSON: {error}") from None


def _local_folder(name: str) -> Path | None:
    """The folder that a name means, or None if it means a repository of the hub."""
    if name.startswith("builtin:"):
        if name not in BUILTIN:
            known = [*BUILTIN, features.NAME]
            raise SourceError(f"no built-in model {name!r}; there is {', '.join(known)}{suggest(name, known)}")
        return BUILTIN[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not _REPOSITORY.fullmatch(name):
        raise SourceError(
            f"no model {name!r}: there is no such folder (looked for {path.absolute()}), and a repository of the hub "
            "is written owner/name"
        )
    return None


def _resolved_features(known: Features, revision: str | None) -> ResolvedModel:
    if revision not in (None, known.revision()):
        raise SourceError(
            f"model {known.name()}: revision {revision} was asked for, but this version of lmsae makes "
            f"{known.revision()} of these numbers. Leave the revision empty, or plan again"
        )
    return ResolvedModel(name=known.name(), revision=known.revision())


def _planned_folder(model: ResolvedModel) -> Path | None:
    """The folder of a local model, or None for one of the hub.

    Raises SourceError if its files changed since the plan: what is made with them must not bear the old model's key.
    """
    local = _local_folder(model.name)
    if local is not None:
        digest = _digest_of_folder(model.name, local, sha256_of_file)
        if digest != model.revision:
            raise SourceError(
                f"model {model.name}: the files in {local} are not those that were planned (they are {digest}, "
                f"planned was {model.revision}). Plan again: `lmsae plan`, or run the workflow again"
            )
    return local


def _digest_of_folder(name: str, path: Path, digest_of_file: Callable[[Path], str]) -> str:
    """`digest:` and 16 digits of what `sha256sum FILES | sha256sum` prints for the folder's files, sorted by name.

    The model card (README), hidden files and subfolders (such as a trainer's checkpoints) are not part of the model.
    """
    files = sorted(file for file in path.glob("*") if file.is_file() and not file.name.startswith((".", "README")))
    if not any(file.name == "config.json" for file in files):
        raise SourceError(f"model {name}: {path} has no config.json, so it is no transformers model")
    lines = "".join(f"{digest_of_file(file)}  {file.name}\n" for file in files)
    return f"digest:{hashlib.sha256(lines.encode()).hexdigest()[:16]}"


def _commit_of(name: str, revision: str | None) -> str:
    """The commit that a hub repository's revision (by default its main branch) means now, or, offline, meant last."""
    try:
        commit = _ask_hub(name, revision)
        _remember(name, revision, commit)
        return commit
    except _Unreachable:
        cached = _cached(name, revision, ["config.json"])
        if cached is None:
            raise
        return cached.name


def _remember(name: str, revision: str | None, commit: str) -> None:
    """Note in the hub's cache which commit a branch or tag means, so that it can be resolved offline.

    The hub's client notes it only when it downloads by branch; models are downloaded by commit here.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    ref = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "refs", revision or "main")
    if revision != commit:
        with suppress(OSError):  # a cache that is shared and read-only
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)


class _Unreachable(SourceError):
    """The hub did not answer, and the local cache does not hold what was wanted either."""

    def __init__(self, name: str, revision: str | None, error: Exception) -> None:
        from huggingface_hub import constants

        which = f"{name} at revision {revision}" if revision else name
        super().__init__(
            f"model {which} cannot be had. Tried: a local folder of that name (none); the hub at {constants.ENDPOINT} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); the cache in {constants.HF_HUB_CACHE} (not "
            "there, or not all of it). Mend the spelling or the network; `hf auth login` for a private or gated model; "
            "set HF_HOME to a cache that holds it; or name a local folder with its files"
        )


def _ask_hub(name: str, revision: str | None) -> str:
    """The commit of a hub repository's revision, from the hub itself within seconds."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS).sha)
    except GatedRepoError:
        raise SourceError(f"model {name} is gated: ask for access on its hub page, then `hf auth login`") from None
    except RevisionNotFoundError:
        raise SourceError(f"model {name} is on the hub, but has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise SourceError(
            f"no model {name!r}: there is no such folder, and the hub has no such repository, or it is private; "
            "mend the spelling, or `hf auth login`"
        ) from None
    except Exception as error:  # requests', httpx's or httpx2's, by version of the hub's client
        raise _Unreachable(name, revision, error) from error


def _snapshot(model: ResolvedModel, patterns: list[str], is_complete: Callable[[Path], bool]) -> Path:
    """The folder with these files of a hub model at its revision: from the cache if it is complete, else downloaded."""
    from huggingface_hub import snapshot_download

    cached = _cached(model.name, model.revision, patterns)
    if cached is not None and is_complete(cached):
        return cached
    # Without network a download tries again for half a minute; this question fails at once.
    _ask_hub(model.name, model.revision)
    try:
        return Path(snapshot_download(model.name, revision=model.revision, allow_patterns=patterns))
    except Exception as error:
        raise _Unreachable(model.name, model.revision, error) from error


def _cached(name: str, revision: str | None, patterns: list[str]) -> Path | None:
    """The cached snapshot of a hub model, perhaps without some of its files, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _has_config(path: Path) -> bool:
    return (path / "config.json").is_file()


def _has_tokenizer(path: Path) -> bool:
    return any(any(path.glob(name)) for name in _TOKENIZERS)


def _has_weights(path: Path) -> bool:
    index = path / _INDEX
    if not index.is_file():
        return _has_config(path) and (path / _WEIGHTS).is_file()
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return _has_config(path) and all((path / shard).is_file() for shard in shards)
