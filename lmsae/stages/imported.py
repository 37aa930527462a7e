"""import: a finished dictionary, trained here or elsewhere -> an artifact like that of training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import SOURCE, Artifact, digest_of_file, write_atomically
from lmsae.errors import ChangedSource, FolderError, MissingArtifact
from lmsae.interop.finished import FILES, Content, Finished, Repository
from lmsae.interop.located import OnHub, commit_of, digest_of, fetch
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Facts
from lmsae.stages.row import ResolvedRow
from lmsae.stages.stage import Done, Job, Stage, make_each

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary


class Config(Content):
    """The dictionary by its content. Where a folder lies is no part of it, and is noted beside the spec."""


def configs(row: ResolvedRow) -> list[Config]:
    """The finished dictionary that the row evaluates or starts from, if it names one."""
    return [Config(**row.finished.content.model_dump())] if row.finished else []


def note_source(artifact: Artifact, finished: Finished) -> None:
    """Write `source.json` beside the spec, unless the artifact is finished: where the content lies."""
    path, folder = artifact.path / SOURCE, finished.folder and str(finished.folder)
    text = json.dumps({"name": finished.name, "folder": folder}, indent=1) + "\n"
    if not artifact.is_finished and not (path.exists() and path.read_text("utf-8") == text):
        write_atomically(path, text)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `dictionary.json` and `dictionary.safetensors`: the same dictionary in lmsae's own format."""
    del runtime
    return make_each(jobs, _make)


def _make(job: Job) -> Facts:
    config: Config = job.config
    dictionary = _load(job)
    _require_as_described(dictionary, config, job)
    dictionary.save(job.out)
    return {}


def _load(job: Job) -> "Dictionary":
    from lmsae.interop.loading import load
    from lmsae.interop.saelens.released import load_release

    config: Config = job.config
    if not config.release:
        return load(_folder_of(job), config.format)
    assert config.repository, "the table names one for every entry"
    _require_commit(config.repository)  # SAELens reads the main branch, whatever was planned
    return load_release(config.release)


def _require_commit(repository: Repository) -> None:
    """Raise ChangedSource if the main branch of a repository is not at the commit that was planned."""
    found = commit_of(OnHub(repository.name, None, repository.folder))
    if found != repository.commit:
        raise ChangedSource(
            f"{repository.name} is at {found} by now, and planned was {repository.commit}. Plan again: `lmsae plan`."
        )


def _folder_of(job: Job) -> Path:
    """The folder with the files. Raises ChangedSource if their bytes are not those that were planned."""
    config: Config = job.config
    if config.repository:
        return fetch(config.repository, FILES[config.format])
    try:
        folder = Path(json.loads((job.out / SOURCE).read_text("utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingArtifact(
            f"{job.out / SOURCE} does not say where the dictionary lies ({type(error).__name__}). Plan again: `lmsae "
            "plan`."
        ) from None
    found = digest_of(folder, config.format, digest_of_file)
    if found != config.digest:
        raise ChangedSource(
            f"the files of the dictionary in {folder} are not those that were planned (they are {found}, planned was "
            f"{config.digest}). Plan again: `lmsae plan`, or run the workflow again."
        )
    return folder


def _require_as_described(dictionary: "Dictionary", config: Config, job: Job) -> None:
    """Raise FolderError if a folder's weights make another dictionary than its config told the plan."""
    if dictionary.config != config.dictionary:
        found, told = (one.model_dump(mode="json") for one in (dictionary.config, config.dictionary))
        differ = ", ".join(f"{name} {told[name]} and {found[name]}" for name in found if found[name] != told[name])
        file = FILES[config.format][0]
        raise FolderError(f"{job.reference}: {file} and the weights beside it are of two dictionaries ({differ}).")


STAGE = Stage(
    name="import",
    version=1,
    help="a finished dictionary -> an artifact like that of training",
    config=Config,
    inputs={},
    make=make,
    configs=configs,
    keeps=frozenset({SOURCE}),
    stands_for="train",
)
