"""Running a stage: claim, clear, make, publish. The one place where artifacts come into being."""

import contextlib
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.errors import ConfigError, Fault
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.memory import forget_peak, peak_memory, reuse_freed_memory
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__, commit
from lmsae.stages.stage import Job, Stage

LIBRARIES = ("torch", "transformers", "transformer-lens", "zarr", "datasets", "numpy", "numba", "safetensors")


def make_artifacts(stage: Stage, references: Sequence[str], artifacts: Artifacts, runtime: Runtime) -> list[str]:
    """Make those artifacts of one pass that are not finished; returns their references.

    An artifact that is finished costs a look at its manifest. Whatever an interrupted run left behind is removed first,
    but for what its stage goes on from.
    """
    wanted = [artifacts[reference] for reference in dict.fromkeys(references)]
    if all(artifact.is_finished for artifact in wanted):
        return []
    made: list[str] = []
    with contextlib.ExitStack() as claims:
        # Claims are taken in one order everywhere, so two passes that overlap cannot wait for each other.
        for artifact in sorted(wanted, key=lambda artifact: artifact.path):
            artifact.spec()
            claims.enter_context(hold_claim(artifact.path, wait=runtime.wait))
        missing = [artifact for artifact in wanted if not artifact.is_finished]
        jobs = [_job(stage, artifact, artifacts) for artifact in missing]
        if jobs:
            _apply(runtime)
            started, began = time.time(), time.perf_counter()
            with explain_full_disk(artifacts.root):
                for job, facts in stage.make(jobs, runtime):
                    cost = {"seconds": round(time.perf_counter() - began, 3), "in_pass": 1, **facts}
                    Artifact(job.out).publish(_provenance(started, cost, runtime))
                    made.append(job.reference)
                    began = time.perf_counter()
    return made


def _job(stage: Stage, artifact: Artifact, artifacts: Artifacts) -> Job:
    spec = artifact.spec()
    if (spec.stage, spec.version) != (stage.name, stage.version):
        message = f"is of {spec.stage} version {spec.version}; this lmsae makes {stage.name} version {stage.version}"
        raise ConfigError([Fault(str(artifact.path / "spec.json"), None, None, f"{message}. Plan the sweep again")])
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    artifact.clear(stage.keeps)
    return Job(artifact.reference, stage.config.model_validate(spec.config), inputs, artifact.path)


def _apply(runtime: Runtime) -> None:
    reuse_freed_memory()
    forget_peak()
    if runtime.threads:
        import torch

        torch.set_num_threads(runtime.threads)


def _provenance(started: float, facts: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
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
    """What computed: a CUDA device by the name of its chip, another by torch's word for it, such as `cpu`."""
    torch = sys.modules.get("torch")
    device = runtime.torch_device() if torch else "cpu"
    return torch.cuda.get_device_name(device) if torch and device.startswith("cuda") else device


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
