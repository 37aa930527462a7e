"""Making artifacts: which other artifacts a job sees, and how far its inputs are checked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.artifacts.claim import NAME
from lmsae.artifacts.owner import this_process
from lmsae.config import Frozen
from lmsae.errors import BusyArtifact, DamagedArtifact, MissingArtifact, NoMemoryError, ShapeError, Unmade
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import EACH_ALIKE
from lmsae.stages.making import make_artifacts, try_artifacts
from lmsae.stages.stage import Done, Job, Stage


class Config(Frozen):
    width: int
    length: int


CONFIGS = [{"width": 1, "length": length} for length in (5, 6)]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


@pytest.fixture
def jobs() -> list[Job]:
    """The jobs that a stage has been given."""
    return []


def a_stage(jobs: list[Job], **declared: Any) -> Stage:
    """A stage that notes its jobs and writes a word."""

    def make(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        for job in given:
            jobs.append(job)
            (job.out / "word.txt").write_text("done")
            yield job, {}

    named: dict[str, Any] = {"name": "cut", "version": 3, "help": "cloth -> pieces", "config": Config}
    keeps = frozenset({"half"})
    return Stage(**named, inputs={"cloth": "weave"}, make=make, configs=lambda row: [], keeps=keeps, **declared)


def a_stage_of_one_pass(jobs: list[Job], *, ends: int = 99) -> Stage:
    """A stage that cannot cut a width of 0, and dies after so many pieces."""

    def make(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        for number, job in enumerate(given):
            if number == ends:
                raise ZeroDivisionError("worn out")
            jobs.append(job)
            (job.out / "word.txt").write_text("done")
            yield job, {} if job.config.width else ShapeError(f"{job.reference} has no width")

    return replace(a_stage(jobs, shares=lambda spec: ""), make=make)


def add(artifacts: Artifacts, length: int, *, width: int = 1, version: int = 3, cloth: str = "weave/0") -> Artifact:
    config = {"width": width, "length": length}
    return artifacts.add(Spec(stage="cut", version=version, config=config, inputs={"cloth": cloth}))


@pytest.fixture
def cloth(artifacts: Artifacts) -> Artifact:
    """An input of two files."""
    woven = artifacts.add(Spec(stage="weave", version=1, config={}, inputs={}))
    for name in ("label.txt", "bale.txt"):
        (woven.path / name).write_text(name)
    woven.publish({})
    return woven


def test_a_job_sees_the_artifacts_that_differ_from_its_own_in_the_declared_fields_alone(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    wanted = add(artifacts, 5, cloth=cloth.reference)
    finished, begun, untouched, changed = (add(artifacts, n, cloth=cloth.reference) for n in (6, 7, 8, 9))
    others = [
        add(artifacts, 6, width=2, cloth=cloth.reference),
        add(artifacts, 6, version=2, cloth=cloth.reference),
        add(artifacts, 6),
    ]
    for artifact in (finished, changed, *others):
        artifact.publish({})
    (begun.path / "half").write_text("")
    (untouched.path / "other").write_text("")
    spec = changed.path / "spec.json"
    spec.write_text(spec.read_text().replace('"length":9', '"length":1'))
    make_artifacts(a_stage(jobs, relatives_differ_in=frozenset({"length"})), [wanted.reference], artifacts, Runtime())
    assert sorted(relative.path for relative in jobs[0].relatives) == sorted([finished.path, begun.path])


def test_a_stage_that_declares_no_fields_sees_no_other_artifact_of_its_own(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    wanted, other = (add(artifacts, length, cloth=cloth.reference) for length in (5, 6))
    other.publish({})
    make_artifacts(a_stage(jobs), [wanted.reference], artifacts, Runtime())
    assert jobs[0].relatives == []


def test_only_the_files_that_a_stage_reads_of_an_input_are_checked_to_the_byte(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    wanted = add(artifacts, 5, cloth=cloth.reference)
    (cloth.path / "bale.txt").write_text("BALE.TXT")
    stage = a_stage(jobs, reads={"weave": frozenset({"label.txt"})})
    with pytest.raises(DamagedArtifact, match=r"bale\.txt: its bytes"):
        make_artifacts(a_stage(jobs), [wanted.reference], artifacts, Runtime())
    assert make_artifacts(stage, [wanted.reference], artifacts, Runtime()) == [wanted.reference]
    artifacts[wanted.reference].remove()
    wanted = add(artifacts, 5, cloth=cloth.reference)
    (cloth.path / "label.txt").write_text("LABEL.TXT")
    with pytest.raises(DamagedArtifact, match=r"label\.txt: its bytes"):
        make_artifacts(stage, [wanted.reference], artifacts, Runtime())


def test_a_job_that_fails_costs_no_other_job_of_its_pass_its_artifact(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    """Nor does one whose input is missing."""
    good = [add(artifacts, length, cloth=cloth.reference) for length in (1, 2)]
    bad = add(artifacts, 3, width=0, cloth=cloth.reference)
    references = [bad.reference, *(one.reference for one in good)]
    with pytest.raises(ShapeError, match=f"{bad.reference} has no width"):
        make_artifacts(a_stage_of_one_pass(jobs), references, artifacts, Runtime())
    assert [artifact.is_finished for artifact in (bad, *good)] == [False, True, True]
    hungry, third = add(artifacts, 4, cloth="weave/0"), add(artifacts, 5, cloth=cloth.reference)
    references += [hungry.reference, third.reference]
    outcome = try_artifacts(a_stage_of_one_pass(jobs), references, artifacts, Runtime())
    assert outcome.made == [third.reference]
    failures = {name: type(error) for name, error in outcome.failures.items()}
    assert failures == {bad.reference: ShapeError, hungry.reference: MissingArtifact}
    with pytest.raises(Unmade, match=f"{bad.reference} has no width") as raised:
        outcome.require_made()
    assert raised.value.failures == outcome.failures


def test_a_job_that_gets_no_memory_says_which_settings_take_less(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    def make(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        for job in given:
            if job.config.width:
                (job.out / "word.txt").write_text("done")
                yield job, {}
        torch.empty(2**60)  # of which no machine has as many bytes

    effort = replace(EACH_ALIKE, lessen="lower cut.length")
    stage = replace(a_stage_of_one_pass(jobs), make=make, effort=effort)
    large, small = (add(artifacts, 1, width=width, cloth=cloth.reference) for width in (0, 1))
    outcome = try_artifacts(stage, [large.reference, small.reference], artifacts, Runtime())
    assert outcome.made == [small.reference]
    assert isinstance(outcome.failures[large.reference], NoMemoryError)
    said = str(outcome.failures[large.reference])
    assert said.startswith("cut: out of memory (RuntimeError: ")
    assert "Lower cut.length, or give it more memory" in said


def test_what_ends_a_whole_pass_is_the_failure_of_every_job_that_was_still_to_come(
    artifacts: Artifacts, jobs: list[Job], cloth: Artifact
) -> None:
    wanted = [add(artifacts, length, cloth=cloth.reference).reference for length in (1, 2, 3)]
    outcome = try_artifacts(a_stage_of_one_pass(jobs, ends=1), wanted, artifacts, Runtime())
    assert outcome.made == wanted[:1]
    assert list(outcome.failures) == wanted[1:]
    with pytest.raises(ZeroDivisionError, match="worn out"):
        outcome.require_made()


def taken_over(artifact: Artifact) -> None:
    """Let another process have the claim on an artifact."""
    (artifact.path / NAME).write_bytes(replace(this_process("theirs"), host="elsewhere", pid=7).text)


def test_a_process_that_lost_its_claim_writes_and_publishes_nothing_more(artifacts: Artifacts) -> None:
    first, second = (artifacts.add(Spec(stage="cut", version=3, config=config, inputs={})) for config in CONFIGS)

    def make(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        for job in given:
            (job.out / "word.txt").write_text("done")
            taken_over(second)
            yield job, {}

    with pytest.raises(BusyArtifact, match=r"taken over by process 7 on elsewhere"):
        make_artifacts(replace(a_stage([]), make=make), [first.reference, second.reference], artifacts, Runtime())
    assert first.require_intact()
    assert {path.name for path in second.path.iterdir()} == {"spec.json", NAME}


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), RuntimeError("odd")])
def test_whatever_fails_in_a_folder_that_was_taken_over_is_told_as_that(artifacts: Artifacts, error: Exception) -> None:
    artifact = artifacts.add(Spec(stage="cut", version=3, config=CONFIGS[0], inputs={}))

    def make(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        taken_over(artifact)
        yield given[0], {}
        raise error

    def fail(given: Sequence[Job], runtime: Runtime) -> Done:
        del runtime
        yield from ()
        taken_over(artifact)
        raise error

    for how in (make, fail):
        with pytest.raises(BusyArtifact, match="writes nothing more"):
            make_artifacts(replace(a_stage([]), make=how), [artifact.reference], artifacts, Runtime())
        assert not artifact.is_finished
        (artifact.path / NAME).unlink()
