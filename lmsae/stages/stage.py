"""A stage: all that is known of one step of the pipeline. No code outside a stage's file asks for its name."""

from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.config import Frozen, canonical_json
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import EACH_ALIKE, Effort, Facts, Outlook
from lmsae.stages.origin import Origin
from lmsae.stages.row import PlannedRow, ResolvedRow
from lmsae.stages.sites import name_input


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to make. A stage sees its config, its inputs, relatives where it declares them and Runtime, and
    nothing else."""

    reference: str
    config: Any
    inputs: Mapping[str, Artifact]
    folder: Path
    relatives: Sequence[Artifact] = ()
    require_claim: Callable[[], None] = lambda: None
    """Raises BusyArtifact if another process has taken the artifact over. What writes for long calls it before each
    file."""

    @property
    def out(self) -> Path:
        """The folder to write into. Raises BusyArtifact if it is another process's by now."""
        self.require_claim()
        return self.folder


Done = Iterator[tuple[Job, Facts | Exception]]
"""Each job of a pass as soon as it has ended: with facts for its provenance (times, rates), or with the error that
ended it."""


def make_each(jobs: Sequence[Job], make: Callable[[Job], Facts]) -> Done:
    """Make one job after the other. One that fails leaves the others alone."""
    for job in jobs:
        try:
            ended = make(job)
        except Exception as error:
            ended = error
        yield job, ended


@dataclass(frozen=True, slots=True)
class SweepShare:
    """The share of a whole sweep that a stage of sweeps makes one artifact of: its config, or that as canonical JSON,
    and its inputs by name."""

    config: Frozen | str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Publisher:
    """The way of a finished artifact into the folder of results."""

    publish: Callable[[Artifact, Artifacts, Path, Origin | None], None]
    """Make the folder show the artifact, for a sweep if it is known which. Quick, and without effect, if the folder
    shows it already."""
    is_published: Callable[[Artifact, Path], bool]
    """True if the folder shows the artifact."""
    summarize: Callable[[Path], str]
    """The text that tells a user what the folder shows, and where to look."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the pipeline: it turns specs into artifacts.

    A stage makes artifacts of rows (`configs`) or one of the whole sweep (`of_sweep`).
    """

    name: str
    version: int
    """It goes up when the same config must give other bytes."""
    help: str
    """One line for `lmsae --help`: inputs -> artifact."""
    config: type[Frozen]
    inputs: Mapping[str, str]
    """The names of its inputs, and the stages that they come from. An input of which a row has no artifact is left out,
    unless another stage `stands_for` that one: then it is the artifact of that stage."""
    make: Callable[[Sequence[Job], Runtime], Done]
    """Takes the jobs of one pass, writes each one's payload into `job.out`, and yields the job as soon as it is whole.
    The failure of one job is yielded too, and costs no other job its result. What `make` raises ends all the jobs that
    it has not yielded."""
    configs: Callable[[ResolvedRow], Sequence[Frozen]] | None = None
    """The configs of a row's artifacts: several if there is one for each hook point, else one."""
    of_sweep: Callable[[Sequence[PlannedRow]], SweepShare] | None = None
    """The share of a whole sweep, for a stage that makes one artifact of all rows."""
    sections: Mapping[str, type[Frozen]] = field(default_factory=dict)
    """The sections of columns that belong to it, by name."""
    keeps: frozenset[str] = frozenset()
    """Names in `job.out` that outlive an interrupted `make`, for the next one to go on from."""
    relatives_differ_in: frozenset[str] = frozenset()
    """Fields of the config. The relatives of a job are the artifacts of the same stage, version and inputs whose config
    differs in these fields alone; a job gets those that are finished or hold any of `keeps`. Relatives may save work
    and must not change a byte. Without such fields, a stage sees no other artifact of its own."""
    reads: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The only files that it reads of an input, by the input's stage, where the others are too large to be checked in
    vain."""
    lessen: Callable[[Spec, Container[str]], Spec | None] | None = None
    """The spec of what can be made of those inputs that are finished, where some cannot be made; None if that is
    nothing. It is another artifact, and is published in the place of the whole one."""
    stands_for: str | None = None
    """The stage whose place it takes: where a row has no artifact of that stage, those that take one take its own."""
    is_per_hook_point: bool = False
    """It makes an artifact for each hook point of a row, from the inputs of that hook point."""
    shares: Callable[[Spec], Hashable] = lambda spec: spec.key
    """Specs for which this is equal are made in one pass."""
    follows: str | None = None
    """The input with which it keeps company, for a stage whose artifacts take seconds: they are made in one pass, one
    after the other, if that pass makes all of theirs."""
    goes_with: str | None = None
    """The stage of an input that a cluster makes in the same submission, if one pass makes it. Both take seconds, and
    this one needs nothing else that needs that one, or a submission could come to wait for itself."""
    on_device: bool = False
    """It computes on `runtime.device`; the others never need a GPU."""
    fills_memory: bool = False
    """All artifacts of a pass are in memory at once: `runtime.together` of them at most."""
    is_wanted: bool = False
    """Users ask for it as an end in itself: `snakemake` makes it, and all that it needs."""
    require: Callable[[Spec, Outlook], None] | None = None
    """Raises an LmsaeError where the artifacts that are finished show that a spec of this stage can never be made. It
    is asked before any of its inputs is made."""
    remark: Callable[[Spec, Outlook], str | None] | None = None
    """A sentence that a plan says of a finished artifact, if there is anything to say."""
    effort: Effort = EACH_ALIKE
    publisher: Publisher | None = None

    def __post_init__(self) -> None:
        assert (self.configs is None) != (self.of_sweep is None), f"{self.name} makes artifacts of rows or of sweeps"

    def spec(self, config: Frozen | str, inputs: Mapping[str, str]) -> Spec:
        """The spec of a config, or of its canonical JSON, and the references of its inputs."""
        text = config if isinstance(config, str) else canonical_json(config)
        return Spec(stage=self.name, version=self.version, config=text, inputs=inputs)

    def texts(self, row: ResolvedRow) -> list[str]:
        """The configs of a row, each as canonical JSON."""
        assert self.configs is not None, f"{self.name} has no share of a row"
        return [canonical_json(config) for config in self.configs(row)]

    def specs(self, texts: Sequence[str], parents: "Mapping[str, Sequence[Spec]]") -> list[Spec]:
        """The specs of a row with these configs. `parents` maps each stage that it takes inputs from to the row's specs
        of that stage, or of the one that stands for it."""
        return [self.spec(config, self._references(number, parents)) for number, config in enumerate(texts)]

    def _references(self, number: int, parents: "Mapping[str, Sequence[Spec]]") -> dict[str, str]:
        """The inputs of artifact `number` of a row: of its own hook point, or of all."""
        references = {}
        for name, stage in self.inputs.items():
            theirs = parents[stage]
            if self.is_per_hook_point and len(theirs) > 1:
                theirs = [theirs[number]]
            references |= {name_input(name, other): spec.reference for other, spec in enumerate(theirs)}
        return references
