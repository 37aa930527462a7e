"""Running a stage: claim, clear, make, publish. The one place where artifacts come into being."""

import contextlib
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmsae.artifacts.artifact import SPEC, Artifact, Artifacts, Spec
from lmsae.artifacts.claim import Claims, hold_claims
from lmsae.artifacts.digests import DigestCache
from lmsae.config import canonical_json, key_of
from lmsae.errors import ChangedSource, ConfigError, Fault
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.memory import forget_peak, peak_memory, reuse_freed_memory
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__, commit
from lmsae.stages.stage import Job, Stage

LIBRARIES = ("torch", "transformers", "transformer-lens", "zarr", "datasets", "numpy", "numba", "safetensors")


def make_artifacts(stage: Stage, references: Sequence[str], artifacts: Artifacts, runtime: Runtime) -> list[str]:
    """Make those of the artifacts that are not finished, pass by pass; returns their references.

    A finished artifact costs a look at its manifest. What an interrupted run left is removed first, except what the
    stage goes on from.
    """
    wanted = [artifacts[reference] for reference in dict.fromkeys(references)]
    if all(artifact.is_finished for artifact in wanted):
        return []
    for artifact in wanted:
        artifact.spec()
    with hold_claims([artifact.path for artifact in wanted], wait=runtime.wait) as claims:
        passes: dict[Hashable, list[Artifact]] = defaultdict(list)
        for artifact in wanted:
            if not artifact.is_finished:
                passes[stage.shares(artifact.spec())].append(artifact)
        return [made for missing in passes.values() for made in _make_pass(stage, missing, artifacts, runtime, claims)]


def _make_pass(
    stage: Stage, missing: Sequence[Artifact], artifacts: Artifacts, runtime: Runtime, claims: Claims
) -> Iterator[str]:
    """Make the artifacts of one pass and publish each as soon as it is whole; yields their references.

    Raises BusyArtifact once another process has taken one of them over; nothing is written from then on.
    """
    others = _spec_texts(stage, artifacts)
    jobs = [_job(stage, artifact, artifacts, others, claims) for artifact in missing]
    _apply(runtime)
    started, began = time.time(), time.perf_counter()
    with explain_full_disk(artifacts.root), _explain_lost_claims(jobs), _drop_false_digests(artifacts):
        for job, facts in stage.make(jobs, runtime):
            cost = {"seconds": round(time.perf_counter() - began, 3), "in_pass": 1, **facts}
            Artifact(job.out).publish(_provenance(started, cost, runtime), job.require_claim)
            yield job.reference
            began = time.perf_counter()


@contextlib.contextmanager
def _explain_lost_claims(jobs: Sequence[Job]) -> Iterator[None]:
    """While this is entered, an error in a folder that another process has taken over becomes BusyArtifact: whatever
    failed, it may have failed because that process is at work there."""
    try:
        yield
    except Exception:
        for job in jobs:
            job.require_claim()
        raise


@contextlib.contextmanager
def _drop_false_digests(artifacts: Artifacts) -> Iterator[None]:
    """While this is entered, sources that are not those that were planned take the remembered digests with them: the
    next plan computes them anew, so a wrong one is not planned for ever."""
    try:
        yield
    except ChangedSource:
        DigestCache.drop(artifacts.root)
        raise


def _job(stage: Stage, artifact: Artifact, artifacts: Artifacts, others: Mapping[Path, str], claims: Claims) -> Job:
    spec = artifact.spec()
    if (spec.stage, spec.version) != (stage.name, stage.version):
        message = f"is of {spec.stage} version {spec.version}; this lmsae makes {stage.name} version {stage.version}"
        raise ConfigError([Fault(str(artifact.path / SPEC), None, None, f"{message}. Plan the sweep again")])
    inputs = {name: _open(stage, artifacts[reference]) for name, reference in spec.inputs.items()}
    require_claim = partial(claims.require, artifact.path)
    require_claim()
    artifact.clear(stage.keeps)
    config = stage.config.model_validate(spec.config)
    return Job(artifact.reference, config, inputs, artifact.path, _relatives(stage, spec, others), require_claim)


def _open(stage: Stage, artifact: Artifact) -> Artifact:
    """An input of a stage, checked as far as the stage reads it."""
    return artifact.require_intact(stage.reads.get(artifact.path.parent.name))


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
    ending = "," + canonical_json(spec.model_dump(include={"inputs", "stage", "version"})).removeprefix("{")
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
