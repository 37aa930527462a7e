"""Publishing: make `results/` show a report, with links from row names to artifacts and a SAELens folder of each row.

results/report.html, table.csv, plots/, ...     the report's files; page and table with the provenance of their rows
        cost.html, cost.csv                      what the artifacts cost, by their run.json
        rows/<row>/<stage>                       a relative link to the artifact
        saelens/<row>/                           the dictionary for SAELens, or why-not.txt
        .published.json                          for which sweep, and what of all this was made here and so may be
                                                 removed here
"""

import contextlib
import filecmp
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import SPEC, Artifact, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.inside import require_inside
from lmsae.errors import ArtifactError, ExportError
from lmsae.report import cost, provenance
from lmsae.report.results import Row, find_missing
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import draft_of, name_draft
from lmsae.runtime.version import __version__
from lmsae.stages.origin import Origin
from lmsae.stages.published import Published
from lmsae.stages.sites import inputs_from

SOURCE = ".source.json"
WHY_NOT = "why-not.txt"
# All files that this module writes into a folder under saelens/.
SAELENS_FILES = frozenset({SOURCE, WHY_NOT, "cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "notes.txt"})


def publish(
    report: Artifact, rows: Sequence[Row], artifacts: Artifacts, results: Path, origin: Origin | None = None
) -> None:
    """Make `results` show a report, and remove what an earlier call made and this sweep does not have.

    Quick and without effect when nothing has changed. Files that others put there are left alone. Rows that the report
    lacks are published as far as they are made. Raises MissingArtifact if the report, or a dictionary that must be
    exported, is not finished, and ArtifactError if the folder shows another sweep than that of `origin`.
    """
    report.manifest()
    with explain_full_disk(results):
        results.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(results, os.W_OK)
        with hold_claim(results, wait=True) if is_writable else contextlib.nullcontext():
            _publish(report, rows, artifacts, results, origin)


def _publish(report: Artifact, rows: Sequence[Row], artifacts: Artifacts, results: Path, origin: Origin | None) -> None:
    from lmsae.stages import STAGES  # which imports this module

    names = [entry["path"] for entry in report.manifest()["files"]]
    links = {f"rows/{row.name}/{stage}": ref for row in rows for stage, ref in row.artifacts.items()}
    links = {link: reference for link, reference in links.items() if artifacts[reference].is_finished}
    missing = find_missing(rows, report.spec().inputs)
    reported = [row for row in rows if row.name not in missing]
    folders = {f"saelens/{row.name}": row for row in reported}
    ours = {
        *names,
        *links,
        cost.TABLE,
        cost.PAGE,
        *(f"{folder}/{file}" for folder in folders for file in SAELENS_FILES),
    }
    ours = frozenset(require_inside(name, report.path / SPEC) for name in ours)
    before = Published.read(results)
    if before.is_of_another(origin):
        raise ArtifactError(f"{results} shows another sweep ({before.origin}). Plan this one again: it gets its own.")
    origin = origin or before.origin
    # Noted before it is made, so that the next call finds what an interrupted one has left.
    Published(origin, before.names | ours).write(results)
    with tempfile.TemporaryDirectory() as folder:
        complete = provenance.complete(report.path, reported, artifacts, Path(folder))
        for name in sorted(names, key=lambda name: name == provenance.PAGE):
            _copy(complete.get(name, report.path / name), results / name)
    cost.write_cost(rows, artifacts, STAGES, results)
    for link, reference in links.items():
        _link(results / link, artifacts[reference].path)
    for folder, row in folders.items():
        _export(row, artifacts, results / folder)
    _remove(results, before.names - ours)
    Published(origin, ours).write(results)


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(target) as draft:
        shutil.copyfile(source, draft)


def _link(link: Path, artifact: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    # The link starts from its real folder and names the artifact as the user did: either folder may itself be a link.
    target = os.path.relpath(artifact.absolute(), link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == target:
        return
    if link.exists() and not link.is_symlink():
        raise ArtifactError(f"{link} is in the way of a link to {artifact}: it is not a link. Move it away.")
    with draft_of(link) as draft:
        draft.symlink_to(target)


def _export(row: Row, artifacts: Artifacts, folder: Path) -> None:
    """Write the row's SAELens folder, unless it is there and of the same artifacts."""
    from lmsae.stages import DICTIONARIES  # whose modules import this one

    made_by = next(stage for stage in DICTIONARIES if stage in row.artifacts)
    source = {"lmsae": __version__, made_by: row.artifacts[made_by], "eval": row.artifacts["eval"]}
    marker = json.dumps(source, indent=1) + "\n"
    if (folder / SOURCE).exists() and (folder / SOURCE).read_text() == marker:
        return
    made, evaluation = (artifacts[source[stage]].require_intact() for stage in (made_by, "eval"))
    draft = name_draft(folder)
    draft.mkdir(parents=True)
    try:
        try:
            write_saelens(made, evaluation, artifacts, draft)
        except ExportError as error:
            write_why_not(made, draft, error)
        (draft / SOURCE).write_text(marker)
        if folder.exists():
            _swap(draft, folder)
        else:
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_why_not(made: Artifact, folder: Path, error: ExportError) -> None:
    """Write why a dictionary has no SAELens folder, in its place."""
    (folder / WHY_NOT).write_text(f"There is no SAELens folder of {made.reference}: {error}\n")


def write_saelens(
    made: Artifact,
    evaluation: Artifact | None,
    artifacts: Artifacts,
    folder: Path,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a dictionary into a folder as SAELens reads it, with what its evaluation has measured, if there is one, and
    `more` entries of its metadata. Raises ExportError, and writes nothing, if SAELens has no counterpart."""
    from safetensors.torch import load_file

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interop import saelens

    density = load_file(evaluation.path / "latents.safetensors")["density"] if evaluation else None
    metadata = metadata_of(made, evaluation, artifacts) | {**(more or {})}
    saelens.export(Dictionary.load(made.path), folder, provenance=metadata, density=density)


def metadata_of(made: Artifact, evaluation: Artifact | None, artifacts: Artifacts) -> dict[str, Any]:
    """The entries of SAELens' metadata for a dictionary that was trained here or elsewhere, with what its evaluation
    has measured."""
    if "tokens" in made.spec().inputs:
        metadata = saelens_metadata(made, artifacts)
    else:
        metadata = _metadata_of_evaluated(made, evaluation)
    return metadata | (_measured(evaluation) if evaluation else {})


def _measured(evaluation: Artifact) -> dict[str, Any]:
    """The entries of SAELens' metadata that an evaluation has measured. SAELens itself counts l0 and dead latents on
    the last tokens of training."""
    metrics = json.loads((evaluation.path / "metrics.json").read_text())
    found = {"l0": metrics["l0"], "num_dead_features": metrics["dead"]}
    return {name: value for name, value in found.items() if value is not None}


def saelens_metadata(train: Artifact, artifacts: Artifacts) -> dict[str, Any]:
    """The entries of SAELens' metadata for a dictionary, from the specs that it was made by."""
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interop.saelens.names import training_architecture

    spec = train.spec()
    inputs: Mapping[str, str] = spec.inputs
    sites = spec.config["sites"]
    captures = [artifacts[reference].spec().config for reference in inputs_from("activations", inputs)]
    text = artifacts[inputs["tokens"]].spec().config
    losses = [loss["kind"] for loss in spec.config["objective"]["losses"]]
    return {
        "model_name": captures[0]["model"]["source"]["name"],
        "hook_name": captures[sites["reads"][0]]["hook_point"],
        "hook_name_out": captures[sites["writes"][0]]["hook_point"],
        "context_size": text["packing"]["context_size"],
        "prepend_bos": text["packing"]["prepend_bos"],
        **({"dataset_path": text["dataset"]["name"]} if "dataset" in text else {}),
        "training_architecture": training_architecture(Dictionary.load(train.path).config, losses),
        "lmsae_artifact": train.reference,
    }


def _metadata_of_evaluated(made: Artifact, evaluation: Artifact | None) -> dict[str, Any]:
    """The same for a dictionary that was trained elsewhere: what its evaluation knows. Its text is not known."""
    if evaluation is None:
        return {"lmsae_artifact": made.reference}
    config = evaluation.spec().config
    names = [place["hook_point"] for place in config["places"]]
    return {
        "model_name": config["models"][0]["source"]["name"],
        "hook_name": names[config["sites"]["reads"][0]],
        "hook_name_out": names[config["sites"]["writes"][0]],
        "lmsae_artifact": made.reference,
    }


def _swap(draft: Path, folder: Path) -> None:
    """Put the draft in the folder's place, with whatever others have laid into the folder."""
    for file in folder.iterdir():
        if file.name not in SAELENS_FILES:
            file.replace(draft / file.name)
    old = name_draft(folder)
    folder.replace(old)
    draft.replace(folder)
    shutil.rmtree(old)


def _remove(results: Path, names: Iterable[str]) -> None:
    for name in names:
        path = results / name
        if not path.parent.resolve().is_relative_to(results.resolve()):
            continue  # somebody made a link of a folder here: what is behind it is not ours
        if path.is_symlink() or path.is_file():
            path.unlink()
        for parent in list(Path(name).parents)[:-1]:
            if (results / parent).is_dir() and not any((results / parent).iterdir()):
                (results / parent).rmdir()
