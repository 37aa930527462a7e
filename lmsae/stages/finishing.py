"""Finishing: from the weights that training ends with to the dictionary that is saved."""

import json
from typing import TYPE_CHECKING

from lmsae.stages.footprint import CALIBRATED_AT_ONCE
from lmsae.stages.stage import Job

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary

CONVERSION = "conversion.json"


def finish(dictionary: "Dictionary", job: Job) -> "Dictionary":
    """The dictionary to save of the one that training has ended with, which is calibrated in place. What conversion
    costs, if the row asks for it, is written to `conversion.json`."""
    finished = calibrate(dictionary, job)
    if job.config.objective.convert_to_jumprelu:
        finished = _convert(dictionary)
        _note_cost(dictionary, finished, job)
    return finished


def finish_copy(dictionary: "Dictionary", job: Job, *, is_kept: bool) -> "Dictionary":
    """The dictionary that would be saved if training had ended with this one, a copy that nobody else uses. If it is
    not kept, a threshold that its codes do not depend on stays as it is."""
    converts = job.config.objective.convert_to_jumprelu
    if is_kept or converts or _fires_by_threshold(dictionary):
        calibrate(dictionary, job)
    return _convert(dictionary).eval() if converts else dictionary


def calibrate(dictionary: "Dictionary", job: Job) -> "Dictionary":
    """Set a threshold that training has estimated by the weights that are saved, on calibration tokens. Returns the
    dictionary."""
    from lmsae.sparsity.selection import LearnsThreshold
    from lmsae.stages.inputs.stored import calibration_parts

    if not isinstance(dictionary.sparsity, LearnsThreshold):
        return dictionary
    at_once = max(1, CALIBRATED_AT_ONCE // dictionary.geometry.latents)
    tokens, batches = calibration_parts(dictionary.config, job.config.sites, job.inputs, job.config, at_once)
    device = _device(dictionary)
    dictionary.calibrate_threshold(tokens, ((batch.x, batch.usable) for batch in (one.to(device) for one in batches)))
    return dictionary


def _fires_by_threshold(dictionary: "Dictionary") -> bool:
    """True if the codes depend on a threshold that training has estimated."""
    from lmsae.sparsity.selection import LearnsThreshold, SelectsByToken

    return isinstance(dictionary.sparsity, LearnsThreshold) and not isinstance(dictionary.sparsity, SelectsByToken)


def _convert(dictionary: "Dictionary") -> "Dictionary":
    from lmsae.dictionary.as_jumprelu import convert_to_jumprelu

    return convert_to_jumprelu(dictionary)


def _note_cost(dictionary: "Dictionary", converted: "Dictionary", job: Job) -> None:
    """Measure on calibration tokens what conversion has cost, and write it."""
    from lmsae.dictionary.as_jumprelu import measure_cost
    from lmsae.stages.inputs.stored import calibration_batch

    batch = calibration_batch(dictionary.config, job.config.sites, job.inputs, job.config).to(_device(dictionary))
    paid = measure_cost(dictionary, converted, batch.x, batch.target, batch.usable)
    (job.out / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")


def _device(dictionary: "Dictionary") -> str:
    return str(next(dictionary.parameters()).device)
