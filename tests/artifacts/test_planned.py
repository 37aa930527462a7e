"""Specs that are planned stand in one file a sweep, until work on their artifacts begins."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.artifacts.artifact import SPEC, Artifacts, Spec
from lmsae.artifacts.planned import read_planned, references_beginning, write_planned
from lmsae.errors import MissingArtifact


def specs(*rates: float, stage: str = "train") -> dict[str, Spec]:
    made = [Spec(stage=stage, version=1, config={"lr": rate, "name": "naïve\t\n"}, inputs={}) for rate in rates]
    return {spec.reference: spec for spec in made}


@given(st.sets(st.integers(0, 10**6), max_size=40), st.integers(0, 10**6))
def test_each_spec_is_found_and_no_other(tmp_path_factory: pytest.TempPathFactory, rates: set[int], other: int) -> None:
    root, planned = tmp_path_factory.mktemp("root"), specs(*rates)
    write_planned(root, "sweep", planned)
    assert {reference: read_planned(root, reference) for reference in planned} == {
        reference: spec.canonical for reference, spec in planned.items()
    }
    (unknown,) = specs(-1 - other)
    assert read_planned(root, unknown) is None
    start = unknown[:7]
    assert references_beginning(root, start) == {one for one in planned if one.startswith(start)}


def test_a_changed_plan_keeps_the_specs_of_jobs_that_were_submitted_and_gc_forgets_them(tmp_path: Path) -> None:
    before, after = specs(1, 2), specs(2, 3)
    write_planned(tmp_path, "sweep", before)
    write_planned(tmp_path, "sweep", after)
    assert references_beginning(tmp_path, "") == before.keys() | after.keys()
    write_planned(tmp_path, "sweep", after, forget=True)
    assert references_beginning(tmp_path, "") == after.keys()


def test_an_unchanged_plan_writes_nothing(tmp_path: Path) -> None:
    write_planned(tmp_path, "sweep", specs(1, 2))
    (file,) = tmp_path.glob("specs/*")
    inode = file.stat().st_ino
    write_planned(tmp_path, "sweep", specs(2))
    assert file.stat().st_ino == inode


def test_a_plan_that_is_killed_leaves_the_file_before_and_nothing_half(tmp_path: Path) -> None:
    class Killed:
        @property
        def canonical(self) -> str:
            raise KeyboardInterrupt

    write_planned(tmp_path, "sweep", specs(1))
    (file,) = tmp_path.glob("specs/*")
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_planned(tmp_path, "sweep", {**specs(1, 2), "train/zzzz": Killed()})
    assert file.read_bytes() == before
    assert [*tmp_path.glob("specs/*")] == [file]


def test_a_line_that_was_cut_short_is_no_spec_and_the_next_plan_writes_it_again(tmp_path: Path) -> None:
    planned = specs(1, 2)
    write_planned(tmp_path, "sweep", planned)
    (file,) = tmp_path.glob("specs/*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    last = max(planned)
    with pytest.raises(MissingArtifact, match="lmsae plan"):
        Artifacts(tmp_path)[last].spec()
    write_planned(tmp_path, "sweep", planned)
    assert file.read_bytes() == whole
    assert Artifacts(tmp_path)[last].spec() == planned[last]


def test_an_artifact_has_no_folder_until_work_on_it_begins(tmp_path: Path) -> None:
    artifacts, planned = Artifacts(tmp_path), specs(1)
    write_planned(tmp_path, "sweep", planned)
    (reference,) = planned
    assert [*artifacts] == []
    assert artifacts.find(reference[:12]).reference == artifacts.find(reference).reference == reference
    begun = artifacts.begin(reference)
    assert [one.reference for one in artifacts] == [reference]
    assert (begun.path / SPEC).read_text("utf-8") == planned[reference].canonical
