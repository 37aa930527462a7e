"""Conversion of a finished dictionary to jumprelu, as a command: written for lmsae and for SAELens, with its cost."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import ArtifactError, ExportError
from lmsae.runtime.disk import explain_full_disk, require_space
from lmsae.stages import train
from lmsae.stages.finishing import CONVERSION
from lmsae.stages.publishing import saelens_metadata


def convert(artifact: Artifact, artifacts: Artifacts, folder: Path, *, say: Callable[[str], None]) -> None:
    """Write `artifact`'s dictionary as jumprelu into a new `folder`, as SAELens and `Dictionary.load` read it, with
    `conversion.json`: its quality before and after on calibration tokens.

    Raises ExportError for a dictionary without a learned threshold, ArtifactError if `artifact` is no dictionary or
    something is in the folder already, NoSpaceError if the disk cannot hold it: then nothing is left there.
    """
    from lmsae.dictionary.as_jumprelu import convert_to_jumprelu, measure_cost
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interop import saelens
    from lmsae.stages.inputs.stored import calibration_batch

    spec = artifact.spec()
    if spec.stage != "train":
        raise ArtifactError(
            f"{artifact.reference} is no dictionary that was trained here: name a train "
            "artifact (`lmsae plan` lists them)."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty; name a new folder, or empty it.")
    dictionary = Dictionary.load(artifact.require_intact().path)
    converted = convert_to_jumprelu(dictionary)
    config = train.Config.model_validate(spec.config)
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    batch = calibration_batch(dictionary.config, config.sites, inputs, config)
    paid = measure_cost(dictionary, converted, batch.x, batch.target, batch.usable)
    nbytes = sum(value.nbytes for value in converted.state_dict().values())
    require_space(folder, 2 * nbytes, "convert a smaller dictionary", elsewhere="name a folder on another disk")
    wrote = f"wrote {folder}, for lmsae and SAELens"
    with _whole_or_empty(folder):
        converted.save(folder)
        (folder / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
        try:
            saelens.export(converted, folder, provenance=saelens_metadata(artifact, artifacts), density=None)
        except ExportError as error:
            wrote = f"wrote {folder}, for lmsae only: {error}"
    say(f"{artifact.reference} as jumprelu: {paid}")
    say(wrote)


@contextmanager
def _whole_or_empty(folder: Path) -> Iterator[None]:
    """Make an empty folder to be filled within the block. After an error it is as it was: empty, or not there."""
    was_there = folder.exists()
    with explain_full_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            for entry in folder.iterdir() if was_there and folder.exists() else ():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not was_there:
                shutil.rmtree(folder, ignore_errors=True)
            raise
