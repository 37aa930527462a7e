"""Running a stage: claim, clear, make, publish. The one place where artifacts come into being."""

import contextlib
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmsae.artifacts.artifact import SPEC, Artifact, Artifacts, Spec
from lmsae.artifacts.claim import Claims, hold_claims
from lmsae.artifacts.digests import DigestCache
from lmsae.config import canonical_json, key_of
from lmsae.errors import BusyArtifact, ChangedSource, ConfigError, DamagedArtifact, Fault, Unmade
from lmsae.runtime.disk import explained
from lmsae.runtime.memory import explain_no_memory, forget_peak, peak_memory, reuse_freed_memory
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__, commit
from lmsae.stages.stage import Job, Stage

LIBRARIES = ("torch", "transformers", "transformer-lens", "zarr", "datasets", "numpy", "numba", "safetensors")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The references of the artifacts that were made, and the errors of those that could not be, by reference."""

    made: list[str] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)

    def add(self, other: "Outcome") -> None:
        """Take in what became of other artifacts."""
        self.made.extend(other.made)
        self.failures.update(other.failures)

    def require_made(self) -> None:
        """Raise the error of what failed; of several failures, Unmade."""
        errors = list(dict.fromkeys(self.failures.values()))
        if len(errors) == 1:
            raise errors[0]
        if errors:
            lines = [f"{reference}: {error}" for reference, error in self.failures.items()]
            raise Unmade("\n".join(lines), self.failures)


def make_artifacts(stage: Stage, references: Sequence[str], artifacts: Artifacts, runtime: Runtime) -> list[str]:
    """Make those of the artifacts that are not finished, pass by pass; returns their references.

    A finished artifact costs a look at its manifest. What an interrupted run left is removed first, except what the
    stage goes on from. The failure of one artifact is raised when all others are made.
    """
    outcome = try_artifacts(stage, references, artifacts, runtime)
    outcome.require_made()
    return outcome.made


def try_artifacts(stage: Stage, references: Sequence[str], artifacts: Artifacts, runtime: Runtime) -> Outcome:
    """`make_artifacts` with the failures of single artifacts, and of whole passes, among what it returns."""
    outcome = Outcome()
    found = [artifacts[reference] for reference in dict.fromkeys(references)]
    if all(artifact.is_finished for artifact in found):
        return outcome
    # Nothing is claimed or made where it is lent.
    wanted = [artifact for artifact in found if artifact.lender is None or not artifact.is_finished]
    wanted = [artifacts.begin(one.reference) for one in wanted]
    for artifact in wanted:
        artifact.spec()
    with hold_claims([artifact.path for artifact in wanted], wait=runtime.wait) as claims:
        passes: dict[Hashable, list[Artifact]] = defaultdict(list)
        for artifact in wanted:
            if not artifact.is_finished:
                passes[stage.shares(artifact.spec())].append(artifact)
        for missing in passes.values():
            outcome.add(_make_pass(stage, missing, artifacts, runtime, claims))
    return outcome


def _make_pass(
    stage: Stage, missing: Sequence[Artifact], artifacts: Artifacts, runtime: Runtime, claims: Claims
) -> Outcome:
    """Make the artifacts of one pass and publish each as soon as it is whole.

    Nothing is written of an artifact from when another process has taken it over; that is the failure BusyArtifact.
    """
    outcome, others = Outcome(), _spec_texts(stage, artifacts)
    jobs: dict[str, Job] = {}
    for artifact in missing:
        try:
            jobs[artifact.reference] = _job(stage, artifact, artifacts, others, claims)
        except Exception as error:
            outcome.failures[artifact.reference] = error
    _apply(runtime)
    started, began = time.time(), time.perf_counter()
    try:
        for job, ended in stage.make(list(jobs.values()), runtime) if jobs else ():
            if isinstance(ended, Exception):
                outcome.failures[job.reference] = _explain(ended, stage, [job], artifacts)
            else:
                cost = {"seconds": round(time.perf_counter() - began, 3), "in_pass": 1, **ended}
                provenance = _provenance(started, cost, runtime) | _lent(job)
                Artifact(job.out).publish(provenance, job.require_claim)
                outcome.made.append(job.reference)
            del jobs[job.reference]
            began = time.perf_counter()
    except Exception as error:
        said = _explain(error, stage, jobs.values(), artifacts)
        if not jobs:
            raise said from error
        outcome.failures.update(dict.fromkeys(jobs, said))
    return outcome


def _explain(error: Exception, stage: Stage, jobs: Iterable[Job], artifacts: Artifacts) -> Exception:
    """The error to tell of one that was met in making jobs.

    Whatever fails in a folder that another process has taken over may fail because that process is at work there.
    Sources that are not those that were planned take the remembered digests with them: the next plan computes them
    anew, so a wrong one is not planned for ever.
    """
    if isinstance(error, ChangedSource):
        DigestCache.drop(artifacts.root)
    if isinstance(error, DamagedArtifact):
        error = _refuse_damaged(error, {one.path: one for job in jobs for one in job.inputs.values()}, artifacts)
    try:
        for job in jobs:
            job.require_claim()
    except BusyArtifact as busy:
        return busy
    return explain_no_memory(explained(error, artifacts.root), stage.name, stage.effort.lessen)


def _refuse_damaged(error: DamagedArtifact, inputs: Mapping[Path, Artifact], artifacts: Artifacts) -> DamagedArtifact:
    """The error to tell of damage that was met in reading, after lent inputs that are damaged are refused."""
    damaged = [one for one in inputs.values() if one.lender is not None and one.damaged_files()]
    for one in damaged:
        artifacts.refuse(one)
    told = [
        f"{one.reference} is lent by {one.lender} (runtime.also_look_in): run again, and it is made here."
        for one in damaged
    ]
    return DamagedArtifact("\n".join([str(error), *told])) if told else error


def _lent(job: Job) -> dict[str, object]:
    """The entry of run.json with the folders of those inputs that others lent."""
    lent = {one.reference: str(one.path.absolute()) for one in job.inputs.values() if one.lender is not None}
    return {"lent": lent} if lent else {}


def _job(stage: Stage, artifact: Artifact, artifacts: Artifacts, others: Mapping[Path, str], claims: Claims) -> Job:
    spec = artifact.spec()
    if (spec.stage, spec.version) != (stage.name, stage.version):
        message = f"is of {spec.stage} version {spec.version}; this lmsae makes {stage.name} version {stage.version}"
        raise ConfigError([Fault(str(artifact.path / SPEC), None, None, f"{message}. Plan the sweep again")])
    inputs = {name: _open(stage, artifacts[reference], artifacts) for name, reference in spec.inputs.items()}
    require_claim = partial(claims.require, artifact.path)
    require_claim()
    artifact.clear(stage.keeps)
    config = stage.config.model_validate(spec.config)
    return Job(artifact.reference, config, inputs, artifact.path, _relatives(stage, spec, others), require_claim)


def _open(stage: Stage, artifact: Artifact, artifacts: Artifacts) -> Artifact:
    """An input of a stage, checked as far as the stage reads it. A lent one that is damaged is not taken again."""
    try:
        return artifact.require_intact(stage.reads.get(artifact.path.parent.name))
    except DamagedArtifact:
        if artifact.lender is not None:
            artifacts.refuse(artifact)
        raise


def _spec_texts(stage: Stage, artifacts: Artifacts) -> dict[Path, str]:
    """The text of every spec of a stage by its artifact's folder, in the order of the folders; none where the stage
    sees no relatives. Read once for all jobs of a pass: there may be thousands."""
    if not stage.relatives_differ_in:
        return {}
    texts = {}
    for path in sorted((artifacts.root / stage.name).glob(f"*/{SPEC}")):
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):  # removed since then, or damaged
            texts[path.parent] = path.read_text("utf-8")
    return texts


def _relatives(stage: Stage, spec: Spec, others: Mapping[Path, str]) -> list[Artifact]:
    """Those of the other artifacts of a stage that are relatives of a spec (see `Stage`)."""
    # A spec's canonical text ends with its inputs, stage and version. Few texts end alike, and only those are parsed.
    ending = "," + canonical_json({"inputs": spec.inputs, "stage": spec.stage, "version": spec.version}).removeprefix(
        "{"
    )
    alike = {folder: text for folder, text in others.items() if text.endswith(ending) and folder.name != spec.key}
    wanted = _without(spec.config, stage.relatives_differ_in)
    return [
        Artifact(folder)
        for folder, text in alike.items()
        if key_of(text) == folder.name
        and _without(json.loads(text)["config"], stage.relatives_differ_in) == wanted
        and (Artifact(folder).is_finished or any((folder / name).exists() for name in stage.keeps))
    ]


def _without(config: Mapping[str, object], fields: frozenset[str]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name not in fields}


def _apply(runtime: Runtime) -> None:
    reuse_freed_memory()
    forget_peak()
    if runtime.threads:
        import torch

        torch.set_num_threads(runtime.threads)


def _provenance(started: float, facts: Mapping[str, object], runtime: Runtime) -> dict[str, object]:
    return {
        "lmsae": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "host": platform.node(),
        "device": _device(runtime),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "peak_memory_bytes": peak_memory(),
        "runtime": runtime.model_dump(mode="json"),
        "facts": facts,
    }


def _device(runtime: Runtime) -> str:
    """The device that computed: a CUDA device by the name of its chip, another by torch's word, such as `cpu`."""
    torch = sys.modules.get("torch")
    device = runtime.torch_device() if torch else "cpu"
    return torch.cuda.get_device_name(device) if torch and device.startswith("cuda") else device


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
