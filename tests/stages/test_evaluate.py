"""Evaluations share metric groups: only what no finished one has is measured, to the bytes of a fresh evaluation."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.evaluation.model_passes import ModelPasses
from lmsae.metrics.definitions import GROUPS
from lmsae.stages.activations import LMConfig
from tests.miniature import ROWS, Said, keys
from tests.test_docs import ROOT, blocks, run

Lmsae = Callable[..., Said]


def evaluations(folder: Path) -> list[Artifact]:
    """The eval artifacts that the plan wants, in the order of the rows."""
    return [Artifact(folder / "artifacts/eval" / key) for key in keys(folder, "eval")]


def facts(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "run.json").read_text())["facts"]


def payload(artifact: Artifact) -> dict[str, bytes]:
    return {entry["path"]: (artifact.path / entry["path"]).read_bytes() for entry in artifact.manifest()["files"]}


def raise_version(monkeypatch: pytest.MonkeyPatch, *groups: str) -> None:
    for name in groups:
        monkeypatch.setitem(GROUPS, name, replace(GROUPS[name], version=GROUPS[name].version + 1))


def refuse(*arguments: object) -> None:
    raise AssertionError(f"{arguments} is of no use here")


@pytest.fixture
def before(made: Path) -> list[Artifact]:
    """The evaluations of the finished miniature, in the working directory."""
    return evaluations(made)


def evaluate(folder: Path, lmsae: Lmsae) -> list[Artifact]:
    """Plan and evaluate; the eval artifacts."""
    assert lmsae("plan", "--quiet").code == 0
    said = lmsae("eval")
    assert said.code == 0, said.err
    return evaluations(folder)


def require_fresh(found: list[Artifact], before: list[Artifact], folder: Path, lmsae: Lmsae) -> None:
    """Evaluate from nothing, and see the same bytes."""
    expected = [payload(artifact) for artifact in found]
    for artifact in (*found, *before):
        artifact.remove()
    fresh = evaluate(folder, lmsae)
    assert [facts(artifact)["measured"] for artifact in fresh] == [sorted(GROUPS)] * len(ROWS)
    assert [payload(artifact) for artifact in fresh] == expected


def test_a_first_evaluation_measures_every_group(finished: Path) -> None:
    for artifact in evaluations(finished):
        assert facts(artifact)["measured"] == sorted(GROUPS)
        assert facts(artifact)["taken_over"] == {}
        assert artifact.spec().config["groups"] == {name: group.version for name, group in GROUPS.items()}


def test_a_group_of_weights_is_measured_anew_without_the_model_and_all_else_is_taken_over(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [(artifact.reference, payload(artifact)) for artifact in before]
    raise_version(monkeypatch, "decoder")
    with monkeypatch.context() as patch:
        patch.setattr(LMConfig, "load", refuse)
        after = evaluate(made, lmsae)
    assert {artifact.path for artifact in after}.isdisjoint(artifact.path for artifact in before)
    for artifact, (reference, files) in zip(after, there, strict=True):
        assert facts(artifact)["measured"] == ["decoder"]
        assert facts(artifact)["taken_over"] == dict.fromkeys(sorted(GROUPS.keys() - {"decoder"}), reference)
        assert payload(artifact) == files  # the decoder's formula is what it was
    require_fresh(after, before, made, lmsae)


def test_a_group_that_runs_the_model_to_the_hook_point_alone_is_measured_without_splices(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_version(monkeypatch, "sparsity")
    with monkeypatch.context() as patch:
        patch.setattr(ModelPasses, "splice", refuse)
        after = evaluate(made, lmsae)
    assert [facts(artifact)["measured"] for artifact in after] == [["sparsity"]] * len(ROWS)
    require_fresh(after, before, made, lmsae)


def test_dictionaries_of_one_pass_are_measured_each_in_what_it_lacks(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    before.pop(0).remove()
    damaged = before[0].path / "metrics.json"
    damaged.write_text(damaged.read_text().replace("1", "2"))
    raise_version(monkeypatch, "model", "conversion")
    assert lmsae("plan", "--quiet").code == 0
    said = lmsae("eval")
    assert f"nothing is taken over from {before[0].reference}: " in said.err
    after = evaluations(made)
    measured = [facts(artifact)["measured"] for artifact in after]
    assert measured == [sorted(GROUPS)] * 2 + [["conversion", "model"]] * 2
    require_fresh(after, before, made, lmsae)


def test_recovery_needs_no_model_where_no_features_are_known(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [payload(artifact) for artifact in before]
    raise_version(monkeypatch, "recovery")
    monkeypatch.setattr(LMConfig, "load", refuse)
    assert [payload(artifact) for artifact in evaluate(made, lmsae)] == there


def test_the_unigram_loss_is_measured_anew_without_the_model(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [payload(artifact) for artifact in before]
    raise_version(monkeypatch, "text")
    monkeypatch.setattr(LMConfig, "load", refuse)
    assert [payload(artifact) for artifact in evaluate(made, lmsae)] == there


def test_a_group_in_another_version_than_this_lmsae_measures_is_refused(
    made: Path, before: list[Artifact], lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    before[0].clear()
    raise_version(monkeypatch, "sparsity")
    said = lmsae("eval", before[0].path.name)
    assert said.code == 2
    now = GROUPS["sparsity"].version
    wanted = f"wants the metric group sparsity in version {now - 1}; this lmsae measures version {now}"
    assert f"{wanted}. Plan the sweep again" in said.err
    del made


def test_the_metrics_of_each_version_of_a_group_are_those_of_the_day_they_were_written_down() -> None:
    """A group whose metrics differ here needs a new version, or finished evaluations hand on what they do not have."""
    assert {name: (group.version, len(group.metrics), len(group.vectors)) for name, group in GROUPS.items()} == {
        "reconstruction": (4, 12, 0),
        "sparsity": (4, 10, 3),
        "model": (4, 15, 0),
        "decoder": (2, 4, 0),
        "recovery": (1, 2, 0),
        "conversion": (1, 5, 0),
        "text": (1, 1, 0),
    }


def test_a_metric_added_as_the_page_says_is_measured_and_nothing_else(
    made: Path, before: list[Artifact], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "lmsae", tmp_path / "lmsae", ignore=shutil.ignore_patterns("__pycache__"))
    for diff in blocks(ROOT / "docs/metrics.md", "diff"):
        run(["git", "apply", "-p1", "-"], tmp_path, diff)
    code = "from lmsae.cli import main; raise SystemExit(main(['plan', '--quiet']) or main(['eval']))"
    run([sys.executable, "-c", code], made, None, tmp_path)
    for old, new in zip(before, evaluations(made), strict=True):
        assert facts(new)["measured"] == ["decoder"]
        metrics = json.loads((new.path / "metrics.json").read_text())
        assert metrics.pop("decoder_norm_max") >= metrics["decoder_norm"]
        assert metrics == json.loads((old.path / "metrics.json").read_text())
