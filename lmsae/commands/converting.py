"""Conversion of a finished dictionary to jumprelu, as a command: written for lmsae and for SAELens, with its cost."""

import json
from collections.abc import Callable
from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import ArtifactError, ExportError
from lmsae.stages import train
from lmsae.stages.finishing import CONVERSION
from lmsae.stages.publishing import saelens_metadata


def convert(artifact: Artifact, artifacts: Artifacts, folder: Path, *, say: Callable[[str], None]) -> None:
    """Write `artifact`'s dictionary as jumprelu into a new `folder`, as SAELens and `Dictionary.load` read it, with
    `conversion.json`: its quality before and after on calibration tokens.

    Raises ExportError for a dictionary without a learned threshold, ArtifactError if `artifact` is no dictionary or
    something is in the folder already.
    """
    from lmsae.dictionary.as_jumprelu import convert_to_jumprelu, measure_cost
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interop import saelens
    from lmsae.stages.inputs.stored import calibration_batch

    spec = artifact.spec()
    if spec.stage != "train":
        raise ArtifactError(f"{artifact.reference} is no dictionary: name a train artifact (`lmsae plan` lists them).")
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty; name a new folder, or empty it.")
    dictionary = Dictionary.load(artifact.require_intact().path)
    converted = convert_to_jumprelu(dictionary)
    config = train.Config.model_validate(spec.config)
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    batch = calibration_batch(dictionary.config, config.sites, inputs, config)
    paid = measure_cost(dictionary, converted, batch.x, batch.target, batch.usable)
    folder.mkdir(parents=True, exist_ok=True)
    converted.save(folder)
    (folder / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
    say(f"{artifact.reference} as jumprelu: {paid}")
    try:
        saelens.export(converted, folder, provenance=saelens_metadata(artifact, artifacts), density=None)
        say(f"wrote {folder}, for lmsae and SAELens")
    except ExportError as error:
        say(f"wrote {folder}, for lmsae only: {error}")
