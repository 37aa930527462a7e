"""`lmsae.load`: a name -> the finished dictionary that it means, with whatever is known of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmsae.application.home import Given
from lmsae.application.loaded import LoadedDictionary
from lmsae.artifacts.artifact import MANIFEST, SPEC, Artifact, Artifacts
from lmsae.artifacts.digests import DigestCache
from lmsae.commands.finding import find_of_row, rows_of_sweeps
from lmsae.errors import ConfigError, Fault, FolderError, suggest
from lmsae.interop.finished import Finished
from lmsae.lm import Backend, Dtype
from lmsae.planning.finder import Finder
from lmsae.planning.sheet import faults_of_lenders
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.runtime import Runtime
from lmsae.stages import DICTIONARIES, STAGES
from lmsae.stages.sites import name_input


def load(
    name: Path | str,
    *,
    model: str | None = None,
    hook_point: str | Sequence[str] = (),
    hook_point_in: str | Sequence[str] = (),
    hook_point_out: str | Sequence[str] = (),
    backend: Backend | None = None,
    dtype: Dtype | None = None,
    device: str = "auto",
    artifacts: Path | str = "artifacts",
    results: Path | str = "results",
    also_look_in: Sequence[Path | str] = (),
) -> LoadedDictionary:
    """A finished dictionary, of any geometry, trained here or elsewhere.

    `name` is a row of any sweep, the first digits of a key, a folder (of lmsae, SAELens, dictionary_learning, sparsify
    or Language-Model-SAEs), `owner/name[@revision][:folder]` on the hub, or RELEASE:ID of SAELens' table. `model`, hook
    points, `backend` and `dtype` are those that the dictionary names, unless they are given. `artifacts` is the folder
    of all artifacts, `also_look_in` names folders of others, and `results` is one of those where rows are published.
    Weights and model are read when first needed.

    Raises LmsaeError if the name means nothing that lmsae can read.

        sae = lmsae.load("resid2-topk-32")
        print(sae.generate("def", add={7: 4.0}))
    """
    given = Given(
        model, _names(hook_point) or _names(hook_point_in), _names(hook_point) or _names(hook_point_out), backend, dtype
    )
    lenders = tuple(Path(folder) for folder in also_look_in)
    if faults := [Fault("lmsae.load", None, "also_look_in", fault) for fault in faults_of_lenders(lenders)]:
        raise ConfigError(faults)
    runtime = Runtime(artifacts=Path(artifacts), also_look_in=lenders, results=Path(results), device=device)
    everything = Artifacts.of(runtime)
    found = _find(name, everything, Path(results))
    if isinstance(found, Finished):
        return LoadedDictionary(str(name), {}, runtime.results, found, given, runtime)
    found.require_intact()
    return LoadedDictionary(
        str(name), _relatives(found, str(name).partition("/")[0], everything), Path(results), None, given, runtime
    )


def _find(name: Path | str, artifacts: Artifacts, results: Path) -> Artifact | Finished:
    """The artifact of a dictionary, or one from elsewhere."""
    row, _, stage = str(name).partition("/")
    if isinstance(name, str) and stage in ("", *DICTIONARIES):
        own = find_of_row(row, [stage] if stage else DICTIONARIES, artifacts, results)
        if own is not None:
            return own
    digests = DigestCache(artifacts.root)
    try:
        finished = Finder(artifacts, digests).find(str(name))
    except FolderError as error:
        rows = rows_of_sweeps(artifacts)
        told = f" No row is called {row!r} either{suggest(row, rows) or '.'}" if rows else ""
        raise FolderError(f"{str(error).rstrip('.')}.{told}") from None
    folder = finished.folder and finished.folder.resolve()
    return Artifact(folder) if folder and (folder / SPEC).is_file() else finished


def _relatives(dictionary: Artifact, row: str, everything: Artifacts) -> dict[str, Path]:
    """The folders of the artifacts that a dictionary's row wants, by stage; of a dictionary without a row, of all that
    it was made from, and of the newest finished ones that were made from it."""
    artifacts = everything.around(dictionary.path)
    own = dictionary.reference
    wants = (sweep.wants.get(row, ()) for sweep in known_sweeps(artifacts))
    references = next((wanted for wanted in wants if own in wanted), None)
    if references is None:
        references = [*artifacts.lineage(own), *_newest_made_from(own, artifacts)]
    return _by_stage(references, artifacts)


def _newest_made_from(reference: str, artifacts: Artifacts) -> list[str]:
    made: dict[str, Artifact] = {}
    for artifact in artifacts.everywhere():
        stage = STAGES.get(artifact.path.parent.name)
        if stage is None or "dictionary" not in stage.inputs or not artifact.is_finished:
            continue
        if artifact.spec().inputs.get("dictionary") == reference:
            before = made.get(stage.name)
            made[stage.name] = artifact if before is None else max(before, artifact, key=_written)
    return [artifact.reference for artifact in made.values() if artifact.reference != reference]


def _written(artifact: Artifact) -> int:
    return (artifact.path / MANIFEST).stat().st_mtime_ns


def _by_stage(references: Iterable[str], artifacts: Artifacts) -> dict[str, Path]:
    """The folders by stage; a second artifact of a stage is called `activations.1`, and so on."""
    seen: Counter[str] = Counter()
    folders = {}
    for reference in references:
        stage = reference.partition("/")[0]
        folders[name_input(stage, seen[stage])] = artifacts[reference].path
        seen[stage] += 1
    return folders


def _names(hook_points: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(hook_points.split()) if isinstance(hook_points, str) else tuple(hook_points)
