"""A language model by its name: pinned to what it is at this moment, and its files found. No torch at import.

A name is `builtin:stdlib-4m`, `builtin:features?...` (features.py), a local folder, or a repository of the HuggingFace
hub. The revision of a folder is a digest of its files, that of a hub model its commit, and that of features a digest of
their numbers. So the same name and revision always mean the same bytes.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lmsae.config import Frozen, JsonObject, parse_json
from lmsae.errors import ChangedSource, SourceError, suggest
from lmsae.lm import features
from lmsae.lm.features import Features
from lmsae.lm.hook_points import text_config
from lmsae.lm.lens_models import PICKLES, is_lens_config, is_lens_model, lens_config, pickle_in
from lmsae.lm.weights import CONFIG, INDEX, WEIGHTS, missing_files, obstacle, require_no_adapter
from lmsae.runtime import hub

STDLIB = "builtin:stdlib-4m"
BUILTIN = {STDLIB: Path(__file__).parent / "stdlib-4m"}

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")
_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]


class ResolvedModel(Frozen):
    """A language model that cannot change: a name, and the digest or commit that the name meant when planned."""

    name: str
    revision: str


class NoTokenizer(SourceError):
    """A model has no tokenizer. Only a text of token ids can do without."""


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(
    name: str, revision: str | None = None, *, digest_of_file: Callable[[Path], str] = sha256_of_file
) -> ResolvedModel:
    """Pin a name, and a revision if one is asked for, to the immutable model that they mean now.

    `digest_of_file` gives the sha256 of a file in hex; a caller may pass one that remembers. Without a network the
    hub's local cache decides. Raises SourceError if there is no such model, or no way to find out.
    """
    if (known := Features.parse(name)) is not None:
        return _resolve_features(known, revision)
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

    Raises SourceError if this version of lmsae makes other activations of them than the one that planned them.
    """
    known = Features.parse(model.name)
    if known is not None:
        _resolve_features(known, model.revision)
    return known


def default_tokenizer(model: ResolvedModel) -> str | None:
    """The name of the model that lends its tokenizer to one without, if the user names none; None if it has its own, or
    nothing is said of one.

    TransformerLens's own models lie without a tokenizer, and their config.json names one.
    """
    if Features.parse(model.name):
        return STDLIB
    config = read_config(model)
    local = _local_folder(model.name)
    if not is_lens_model(config) or (local is not None and not _missing_tokenizer(local)):
        return None
    return config["tokenizer_name"]


def weights_folder(model: ResolvedModel) -> Path:
    """A local folder with the model's config, weights and tokenizer. A hub model is downloaded at its revision.

    Raises SourceError if they cannot be had, or if there are no safetensors: pickled weights can run code as they load.
    Of TransformerLens's own models, which lie as such, they are read as tensors and nothing else.
    """
    if is_lens_model(read_config(model)):
        return _lens_folder(model)
    found = _planned_folder(model) or _download(model, [*_TEXT_FILES, "*.safetensors"], missing_files)
    missing = missing_files(found)
    require_no_adapter(model.name, found)
    if not missing:
        return found
    pickles = sorted(path.name for path in found.glob("*.bin"))
    reason = (
        f"only pickled ones ({', '.join(pickles)}), which can run code as they load" if pickles else "not all of them"
    )
    raise SourceError(
        f"model {model.name}: wanted safetensors weights ({WEIGHTS}, or every file of {INDEX}), found {reason} in "
        f"{found}: missing is {', '.join(missing)}. Get it again, or save the weights with transformers: "
        "model.save_pretrained(folder), and name that folder"
    )


def _lens_folder(model: ResolvedModel) -> Path:
    def missing(folder: Path) -> list[str]:
        return [] if pickle_in(folder) is not None else missing_files(folder)

    found = _planned_folder(model) or _download(model, [*_TEXT_FILES, "*.safetensors", PICKLES[0]], missing)
    if lacking := missing(found):
        raise SourceError(
            f"model {model.name}: wanted weights of a HookedTransformer ({WEIGHTS} or {', '.join(PICKLES)}), found "
            f"none in {found}: missing is {', '.join(lacking)}. Save them: torch.save(model.state_dict(), "
            '"FOLDER/model_final.pth")'
        )
    return found


def require_usable(model: ResolvedModel) -> None:
    """Raise SourceError if a model's config.json, or what lies beside it, says that lmsae cannot run it as it is."""
    if features_of(model) is not None:
        return
    if reason := obstacle(read_config(model)):
        raise SourceError(f"model {model.name}: {reason}")
    if (local := _local_folder(model.name)) is not None:
        require_no_adapter(model.name, local)


def tokenizer_folder(model: ResolvedModel) -> Path:
    """A local folder with the model's tokenizer. Of a hub model no weights are downloaded.

    Raises NoTokenizer if there is none: transformers would make up an empty one.
    """
    if Features.parse(model.name):
        raise NoTokenizer(f"model {model.name} has no tokenizer; name one: tokenize.tokenizer = {STDLIB}")
    found = _planned_folder(model) or _download(model, _TEXT_FILES, _missing_tokenizer)
    if not _missing_tokenizer(found):
        return found
    raise NoTokenizer(
        f"model {model.name}: {found} has no tokenizer ({', '.join(_TOKENIZERS)}); save it there with transformers: "
        "tokenizer.save_pretrained(folder), or name a model that has one in tokenize.tokenizer"
    )


def read_config(model: ResolvedModel) -> JsonObject:
    """The model's config.json. Of a hub model nothing else is downloaded."""
    if (known := features_of(model)) is not None:
        return known.config()
    found = _local_folder(model.name) or _download(model, [CONFIG], _missing_config)
    path = found / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"model {model.name}: {found} has no config.json, so it is no transformers model") from None
    except ValueError as error:
        raise SourceError(f"model {model.name}: {path} is not readable as JSON: {error}") from None
    if not isinstance(config, dict):
        raise SourceError(f"model {model.name}: {path} holds no JSON object, so it is no config of a model")
    if is_lens_config(config):
        return lens_config(config, f"model {model.name}: {path}")
    return text_config(config)


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


def _resolve_features(known: Features, revision: str | None) -> ResolvedModel:
    if revision not in (None, known.revision()):
        raise SourceError(
            f"model {known.name()}: revision {revision} was asked for, but this version of lmsae makes "
            f"{known.revision()} of these numbers. Leave the revision empty, or plan again"
        )
    return ResolvedModel(name=known.name(), revision=known.revision())


def _planned_folder(model: ResolvedModel) -> Path | None:
    """The folder of a local model, or None for one of the hub.

    Raises SourceError if its files changed since the plan: an artifact must not bear the key of the old model.
    """
    local = _local_folder(model.name)
    if local is not None:
        digest = _digest_of_folder(model.name, local, sha256_of_file)
        if digest != model.revision:
            raise ChangedSource(
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
    """The commit that a hub repository's revision (None: its main branch) means now or, offline, meant last."""
    try:
        commit = _ask_commit(name, revision)
    except hub.Unreachable as error:
        if (cached := hub.cached_commit("model", name, revision)) is not None:
            return cached
        raise _unavailable(name, revision, error) from error
    hub.remember_commit("model", name, revision, commit)
    return commit


def _ask_commit(name: str, revision: str | None) -> str:
    """The commit by the hub itself, within seconds. Raises SourceError if the hub refuses, and hub.Unreachable."""
    try:
        return hub.ask_commit("model", name, revision)
    except hub.Refused as refused:
        raise SourceError(
            {
                "name": f"no model {name!r}: there is no such folder, and it is no possible name on the hub",
                "gated": f"model {name} is gated: ask for access on its hub page, then `hf auth login`",
                "revision": f"model {name} is on the hub, but has no revision {revision!r}",
                "repository": f"no model {name!r}: there is no such folder, and the hub has no such repository, or it "
                "is private; mend the spelling, or `hf auth login`",
            }[refused.reason]
        ) from None


def _download(model: ResolvedModel, patterns: list[str], missing: Callable[[Path], list[str]]) -> Path:
    """The folder with these files of a hub model at its revision: the cache's if none is missing, else downloaded."""
    cached = hub.cached_files(model.name, model.revision, patterns)
    if cached is not None and not missing(cached):
        return cached
    try:
        # Without a network a download tries again for half a minute; this question fails at once.
        _ask_commit(model.name, model.revision)
        return hub.download_files(model.name, model.revision, patterns)
    except hub.Unreachable as error:
        there = hub.snapshot_folder(model.name, model.revision)
        lacking = missing(there) if there.is_dir() else []
        raise _unavailable(model.name, model.revision, error, lacking) from error


def _unavailable(name: str, revision: str | None, error: hub.Unreachable, lacking: Sequence[str] = ()) -> SourceError:
    """The error for a model that neither the hub nor the local cache gives; `lacking` are the files that the cache has
    not, where it has others."""
    from huggingface_hub import constants

    which = f"{name} at revision {revision}" if revision else name
    cache = f"it lacks {', '.join(lacking)}" if lacking else "not there, or not all of it"
    return SourceError(
        f"model {which} cannot be had. Tried: a local folder of that name (none); the hub at {constants.ENDPOINT} "
        f"({error}); the cache in {constants.HF_HUB_CACHE} ({cache}). Mend the spelling or the "
        "network; `hf auth login` for a private or gated model; set HF_HOME to a cache that holds it; or name a local "
        "folder with its files"
    )


def _missing_config(path: Path) -> list[str]:
    return [] if (path / CONFIG).is_file() else [CONFIG]


def _missing_tokenizer(path: Path) -> list[str]:
    return [] if any(any(path.glob(name)) for name in _TOKENIZERS) else [_TOKENIZERS[0]]
