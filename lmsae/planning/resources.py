"""Resources: the memory, the time and the GPUs that a scheduler is asked for to make a pass, without torch.

All of it is what `lmsae plan` tells, with room to spare. The formulas of memory gave 0.65 to 1.25 of the peaks that
they were held against (lmsae/stages/footprint.py). A time is that of finished artifacts that are alike, which another
machine may have made. Where nobody knows, a stage says what it is given (lmsae/stages/effort.py).
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from lmsae.artifacts.artifact import Spec
from lmsae.errors import LmsaeError
from lmsae.planning.estimates import Estimator
from lmsae.stages.fitting import total
from lmsae.stages.footprint import Footprint
from lmsae.stages.stage import Stage

MEMORY_MARGIN = 1.6
"""A formula gave 0.65 of a peak at the least."""
ENGINE_BYTES = 5 * 10**8
"""Beside the pass, in the same job: an engine that starts it. Two processes of Snakemake 9.27 took 175 MB each."""
CUDA_BYTES = 4 * 10**9
"""An allowance, which nobody measured, for what CUDA's libraries take of the host's memory beyond those of the CPU."""
TIME_MARGIN = 3.0
LEAST_SECONDS = 1800.0
MEGABYTES = 250
"""Memory is asked for in steps of so many."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a job: memory of the host in MB, minutes, and GPUs."""

    megabytes: int
    minutes: int
    gpus: int


def resources_of(
    stage: Stage, specs: Sequence[Spec], outlook: Estimator, *, attempt: int = 1, ran_out_of_memory: bool = True
) -> Resources:
    """The resources for a pass of some specs, at the `attempt` at which it is tried, from 1.

    What is finished is not counted. A later attempt gets as many times the memory, unless the one before is known to
    have ended for another reason. It gets as many times the minutes, unless the stage goes on from what it left: then
    no attempt gets more than `Effort.given_seconds`, and the next one goes on.
    """
    missing = [spec for spec in specs if not outlook.artifacts[spec.reference].is_finished] or list(specs)
    footprint = _footprint(stage, missing, outlook)
    on_gpu = stage.on_device and outlook.device != "cpu"
    # What is on a device passes through the host when it is read and written, so all of it is counted.
    nbytes = stage.effort.given_bytes
    if footprint:
        nbytes = MEMORY_MARGIN * total(footprint) + ENGINE_BYTES + on_gpu * CUDA_BYTES
    tries = attempt if ran_out_of_memory else 1
    return Resources(
        megabytes=MEGABYTES * math.ceil(tries * nbytes / 10**6 / MEGABYTES),
        minutes=math.ceil(_seconds(stage, missing, outlook, attempt) / 60),
        gpus=on_gpu * (footprint.processes if footprint else 1),
    )


def _seconds(stage: Stage, specs: Sequence[Spec], outlook: Estimator, attempt: int) -> float:
    """The time that an attempt at a pass is given."""
    effort = stage.effort
    estimate = _estimate(stage, specs, outlook)
    seconds = effort.given_seconds if estimate is None else max(TIME_MARGIN * estimate, LEAST_SECONDS)
    return min(seconds, effort.given_seconds) if stage.keeps else attempt * seconds


def _estimate(stage: Stage, specs: Sequence[Spec], outlook: Estimator) -> float | None:
    """The time of a pass, as finished ones took, or else at the least rate; None where neither is known. What is wrong
    with a spec or an input its job will say."""
    with suppress(LmsaeError, OSError, ValueError, KeyError):
        known = outlook.seconds(stage.name, specs)
        if known is not None or not stage.effort.least_rate:
            return known
        works = [stage.effort.work(spec, outlook) for spec in specs]
        if None not in works:
            return stage.effort.combine([work for work in works if work is not None]) / stage.effort.least_rate
    return None


def _footprint(stage: Stage, specs: Sequence[Spec], outlook: Estimator) -> Footprint | None:
    """The memory of a pass; None where nobody knows it."""
    with suppress(LmsaeError, OSError, ValueError, KeyError):
        return stage.effort.memory(specs, outlook)
    return None
