"""A stage: what turns specs into artifacts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifact
from lmsae.config import Frozen
from lmsae.runtime.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to make. A stage sees its config, its inputs, relatives where it declares them and Runtime, and
    nothing else."""

    reference: str
    config: Any
    inputs: Mapping[str, Artifact]
    out: Path
    relatives: Sequence[Artifact] = ()


Done = Iterator[tuple[Job, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipeline stage.

    `inputs` maps the names of its inputs to the stages they come from. `make` takes the jobs of one pass, writes each
    one's payload into `job.out`, and yields the job with facts for its provenance (times, rates) as soon as it is
    whole; what it has yielded is published even if a later job fails. `version` goes up when the same config must give
    other bytes. `keeps` are the names in `job.out` that outlive an interrupted `make`, for the next one to go on from.

    `relatives_differ_in` are fields of the config. The relatives of a job are the artifacts of the same stage, version
    and inputs whose configs differ in nothing but these fields; a job gets those that are finished or hold any of
    `keeps`. They may save work and must not change a byte. A stage without such fields sees no other artifact of its
    own. `reads` names, by the stage of an input, the only files that are read of it, where the others are too large to
    be checked in vain.
    """

    name: str
    version: int
    config: type[Frozen]
    inputs: Mapping[str, str]
    make: Callable[[Sequence[Job], Runtime], Done]
    keeps: frozenset[str] = frozenset()
    relatives_differ_in: frozenset[str] = frozenset()
    reads: Mapping[str, frozenset[str]] = field(default_factory=dict)
