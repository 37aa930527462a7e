"""Passes as files: their marks say what is done, whoever has set them."""

from pathlib import Path

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.planning.passes import Pass, marked_passes, unmark_undone, write_passes
from lmsae.planning.plan import plan_of
from tests.miniature import keys


def test_a_mark_of_a_pass_that_is_not_done_is_removed_and_what_failed_itself_is_told(made: Path) -> None:
    plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    written = write_passes(plan, runtime)
    marked = marked_passes(runtime)
    assert marked == {reference for references in written.values() for reference in references}
    assert unmark_undone(marked, runtime) == {}
    trained = keys(made, "train")[0]
    Artifact(made / "artifacts/train" / trained).clear()
    for key in keys(made, "eval"):
        evaluation = Artifact(made / "artifacts/eval" / key)
        if f"train/{trained}" in evaluation.spec().inputs.values():
            evaluation.clear()
    undone = unmark_undone(marked, runtime)
    root = Artifacts(runtime.artifacts).root
    lost = {reference: Pass.read(root, reference).artifacts for reference in undone}
    assert {reference.partition("/")[0]: failed for reference, failed in undone.items()} == {
        "train": True,
        "eval": False,
        "report": False,  # whose bytes are there, and a dictionary that it shows is not
    }
    assert any(f"train/{trained}" in artifacts for artifacts in lost.values())
    assert marked_passes(runtime) == marked - undone.keys()
