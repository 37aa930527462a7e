"""Conversion of a finished dictionary to jumprelu, as a command: written for lmsae and for SAELens, with its cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import ArtifactError, ExportError
from lmsae.runtime.disk import explain_full_disk, require_space
from lmsae.runtime.drafts import draft_of_folder, require_empty
from lmsae.stages import train
from lmsae.stages.finishing import CONVERSION
from lmsae.stages.publishing import saelens_metadata

if TYPE_CHECKING:
    from lmsae.dictionary.as_jumprelu import Cost
    from lmsae.dictionary.dictionary import Dictionary


def convert(artifact: Artifact, artifacts: Artifacts, folder: Path, *, say: Callable[[str], None]) -> None:
    """Write `artifact`'s dictionary as jumprelu into a new `folder`, as SAELens and `Dictionary.load` read it, with
    `conversion.json`: its quality before and after on calibration tokens.

    Raises ExportError for a dictionary without a learned threshold, ArtifactError if `artifact` is no dictionary or
    something is in the folder already, NoSpaceError if the disk cannot hold it: then nothing is left there.
    """
    require_empty(folder)
    converted, paid = convert_artifact(artifact, artifacts)
    nbytes = sum(value.nbytes for value in converted.state_dict().values())
    require_space(folder, 2 * nbytes, "convert a smaller dictionary", elsewhere="name a folder on another disk")
    wrote = f"wrote {folder}, for lmsae and SAELens"
    with explain_full_disk(folder), draft_of_folder(folder) as draft:
        converted.save(draft)
        (draft / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
        try:
            write_converted(artifact, artifacts, converted, paid, draft)
        except ExportError as error:
            wrote = f"wrote {folder}, for lmsae only: {error}"
    say(f"{artifact.reference} as jumprelu: {paid}")
    say(wrote)


def convert_artifact(artifact: Artifact, artifacts: Artifacts) -> "tuple[Dictionary, Cost]":
    """The dictionary of a train artifact as jumprelu, and what that costs on calibration tokens.

    Raises ExportError for a dictionary without a learned threshold, ArtifactError if `artifact` is no dictionary that
    was trained here: then there are no calibration tokens.
    """
    from lmsae.dictionary.as_jumprelu import convert_to_jumprelu, measure_cost
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.stages.inputs.stored import calibration_batch

    spec = artifact.spec()
    if spec.stage != "train":
        raise ArtifactError(
            f"{artifact.reference} is no dictionary that was trained here: name a train "
            "artifact (`lmsae plan` lists them)."
        )
    dictionary = Dictionary.load(artifact.require_intact().path)
    converted = convert_to_jumprelu(dictionary)
    config = train.Config.model_validate(spec.config)
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    batch = calibration_batch(dictionary.config, config.sites, inputs, config)
    return converted, measure_cost(dictionary, converted, batch.x, batch.target, batch.usable)


def write_converted(
    artifact: Artifact, artifacts: Artifacts, converted: "Dictionary", paid: "Cost", folder: Path
) -> None:
    """Write the jumprelu that a train artifact was converted to as a SAELens folder. Raises ExportError if SAELens has
    no counterpart."""
    from lmsae.interop import saelens

    metadata = {**saelens_metadata(artifact, artifacts), "l0": paid.after.l0}
    saelens.export(converted, folder, provenance=metadata, density=None)
