"""A small sweep of every geometry: dictionaries over several hook points, and over two models, on shared activations.

What a row shares with others depends on where it reads and writes, so one row of each geometry suffices here;
tests/engines/test_zoo.py runs one of each architecture.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsae.artifacts.artifact import Artifact
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.planning.catalog import CATALOG
from lmsae.stages import ROW_STAGES, STAND_INS
from tests.miniature import (
    HERE,
    THERE,
    Said,
    keys,
    make_until,
    manifests,
    row_of,
    write_config,
    write_model,
    write_sweep,
)

Lmsae = Callable[..., Said]
pytestmark = pytest.mark.xdist_group("zoo")

ROWS = [
    row_of("topk"),
    row_of("transcoder"),
    row_of("crosscoder"),
    row_of("clt"),
    row_of("lorsa"),
    row_of("molt"),
    row_of("crosscoder", **{"name": "diff", "sae.hook_point": HERE, "model.others": "other"}),
]
LATER = row_of("skip_transcoder")
MADE = [stage for stage in ROW_STAGES if stage not in STAND_INS]
"""The stages of rows that are trained here."""
"""The row that a test adds when the others are made."""
SMALL = {"train": {"tokens": 2048}, "eval": {"tokens": 256}, "features": {"tokens": 256}, "init": {"tokens": 256}}
SEVERAL = {"crosscoder": [HERE, THERE], "clt": ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]}


@pytest.fixture(scope="session")
def begun(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the zoo's config and a second model, of which nothing has been made."""
    folder = tmp_path_factory.mktemp("zoo") / "begun"
    shutil.copytree(pristine, folder)
    write_model(folder, "other", seed=1)
    write_config(folder, **SMALL)
    write_sweep(folder, ROWS)
    return folder


@pytest.fixture(scope="session")
def zoo(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo with all its artifacts and results. Look, and do not touch: tests share it."""
    from lmsae.cli import main

    folder = tmp_path_factory.mktemp("zoo") / "here"
    shutil.copytree(begun, folder)
    with contextlib.chdir(folder):
        assert main(["run"]) == 0
    return folder


@pytest.fixture
def mine(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the finished zoo, to be changed or broken."""
    folder = tmp_path / "here"
    shutil.copytree(zoo, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def made_of(row: str, folder: Path, stage: str) -> Path:
    return (folder / "results" / "rows" / row / stage).resolve()


def metrics_of(row: str, folder: Path) -> dict[str, float]:
    return json.loads((made_of(row, folder, "eval") / "metrics.json").read_text())


def test_every_geometry_has_a_row() -> None:
    assert {CATALOG[row["sae.architecture"]].geometry for row in [*ROWS, LATER]} == GEOMETRIES.keys()


def test_the_whole_zoo_shares_tokens_and_activations(zoo: Path) -> None:
    """Two residual streams and two MLP outputs of the model, and one residual stream of the other."""
    made = [reference.partition("/")[0] for reference in manifests(zoo)]
    assert {stage: made.count(stage) for stage in (*MADE, "report")} == {
        "tokenize": 1,
        "activations": 5,
        "norm": 5,
        "init": 7,
        "train": 7,
        "eval": 7,
        "features": 7,
        "page": 7,
        "report": 1,
    }


@pytest.mark.parametrize("row", [row["name"] for row in ROWS])
def test_every_dictionary_of_the_zoo_has_been_trained_and_scored(zoo: Path, row: str) -> None:
    metrics, dictionary = metrics_of(row, zoo), Dictionary.load(made_of(row, zoo, "train"))
    assert all(np.isfinite(metrics[name]) for name in ("explained_variance", "mse", "l0", "ce_loss_score_mean"))
    assert metrics["d_sae"] == dictionary.geometry.latents == (128 if row == "clt" else 64)
    x = torch.randn(2, 32, dictionary.config.d_in)
    assert dictionary(x).shape == (2, 32, dictionary.config.d_out)
    initial, trained = (
        (made_of(row, zoo, stage) / file).read_bytes()
        for stage, file in (("init", "weights.safetensors"), ("train", "dictionary.safetensors"))
    )
    assert initial != trained


@pytest.mark.parametrize("row", SEVERAL)
def test_a_dictionary_that_writes_several_hook_points_is_measured_at_each(zoo: Path, row: str) -> None:
    metrics = metrics_of(row, zoo)
    by_site = [metrics[f"mse[{hook_point}]"] for hook_point in SEVERAL[row]]
    assert sum(by_site) == pytest.approx(metrics["mse"], rel=1e-6)
    assert all(f"explained_variance[{hook_point}]" in metrics for hook_point in SEVERAL[row])


def test_a_dictionary_of_two_models_is_measured_in_each(zoo: Path) -> None:
    metrics = metrics_of("diff", zoo)
    assert sum(metrics[f"mse[{HERE}@{model}]"] for model in range(2)) == pytest.approx(metrics["mse"], rel=1e-6)
    assert metrics[f"mse[{HERE}@0]"] != metrics[f"mse[{HERE}@1]"]
    read = Dictionary.load(made_of("diff", zoo, "train")).config.widths.reads
    assert read == (16, 16)


def test_a_dictionary_of_one_hook_point_has_no_metrics_by_place(zoo: Path) -> None:
    assert not [name for name in metrics_of("transcoder", zoo) if "[" in name]


def test_a_second_run_of_the_zoo_makes_nothing(mine: Path, lmsae: Lmsae) -> None:
    before = manifests(mine)
    said = lmsae("run")
    assert said.code == 0
    assert all(" 0 made" in line for line in said.err.splitlines()), said.err
    assert manifests(mine) == before


def test_a_plan_counts_the_further_artifacts_of_a_row(mine: Path, lmsae: Lmsae) -> None:
    lines = {line.split()[0]: line for line in lmsae("plan").out.splitlines() if line}
    header = lines["row"].split()
    assert header == ["row", *MADE]
    further = {row["name"]: lines[row["name"]].count("+1") for row in ROWS}
    assert further == {"topk": 0, "transcoder": 2, "crosscoder": 2, "clt": 0, "lorsa": 2, "molt": 2, "diff": 2}
    assert lines["clt"].count("+3") == 2
    # 14 uses of 5 stores: one of topk, four of clt, two of each other.
    assert lines["activations"].split()[1:4] == ["5", "3", "rows"]
    Artifact(mine / "artifacts" / "activations" / made_of("diff", mine, "activations.1").name).clear()
    after = {line.split()[0]: line for line in lmsae("plan").out.splitlines() if line}
    assert f"to do {made_of('diff', mine, 'activations').name[:6]} +1" in after["diff"]
    assert "to do" not in after["crosscoder"]


def test_show_names_every_row_that_wants_a_store_whatever_its_number_there(
    zoo: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(zoo)
    second = made_of("crosscoder", zoo, "activations.1").name
    assert "wanted by transcoder, crosscoder, clt, lorsa, molt\n" in lmsae("show", second).out
    lineage = lmsae("show", made_of("clt", zoo, "eval").name).out.split("lineage\n")[1].split("\n\n")[0].split()
    stages = [word.partition("/")[0] for word in lineage if "/" in word]
    assert [stages.count(stage) for stage in MADE] == [1, 4, 4, 1, 1, 1, 0, 0]  # no features, no page
    assert lmsae("verify").out == f"{len(manifests(zoo))} whole, 0 damaged, 0 wanted but not made\n"


@pytest.mark.slow
def test_gc_keeps_a_store_as_long_as_any_row_reads_it(mine: Path, lmsae: Lmsae) -> None:
    write_sweep(mine, [row for row in ROWS if row["name"] in ("topk", "crosscoder")])
    said = lmsae("gc", "--delete")
    assert said.code == 0, said.err
    left = [reference.partition("/")[0] for reference in manifests(mine)]
    assert {stage: left.count(stage) for stage in MADE} == {
        "tokenize": 1,
        "activations": 2,
        "norm": 2,
        "init": 2,
        "train": 2,
        "eval": 2,
        "features": 2,
        "page": 2,
    }
    said = lmsae("run")
    assert [line for line in said.err.splitlines() if " 0 made" not in line] == ["report: 1 made, 0 there already"]


def test_the_report_says_where_each_dictionary_reads_and_writes_and_how_well_at_each_place(zoo: Path) -> None:
    page = (zoo / "results" / "report.html").read_text()
    assert f"{HERE} -&gt; {THERE}" in page
    assert f"explained_variance[{THERE}]" in page
    assert f"explained_variance[{HERE}@1]" in page
    table = (zoo / "results" / "table.csv").read_text()
    assert f"{HERE} -> {THERE}" in table
    assert "model other" in table
    for row in ROWS:
        links = {path.name for path in (zoo / "results" / "rows" / row["name"]).iterdir()}
        assert {name.partition(".")[0] for name in links} == {*MADE}


def test_what_saelens_knows_is_written_for_it_and_why_not_for_the_others(zoo: Path) -> None:
    folders = {row["name"]: {path.name for path in (zoo / "results/saelens" / row["name"]).iterdir()} for row in ROWS}
    assert "cfg.json" in folders["topk"]
    for row in ("crosscoder", "clt", "lorsa", "molt", "diff"):
        assert "why-not.txt" in folders[row]


@pytest.mark.parametrize(
    "row", ["diff", *(pytest.param(row, marks=pytest.mark.slow) for row in ("crosscoder", "lorsa"))]
)
def test_a_row_of_the_zoo_by_itself_has_the_same_bytes(
    begun: Path, zoo: Path, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(begun, folder)
    monkeypatch.chdir(folder)
    write_sweep(folder, [cells for cells in ROWS if cells["name"] == row])
    make_until("eval")
    alone = manifests(folder)
    assert len(alone) == 8
    assert alone.items() <= manifests(zoo).items()


def test_dictionaries_of_different_geometries_share_a_pass_and_are_none_the_worse_for_it(
    mine: Path, lmsae: Lmsae
) -> None:
    """A transcoder, a skip transcoder and a molt read the same batches; the third is new to the zoo."""
    write_sweep(mine, [*ROWS, LATER])
    lmsae("plan")
    passes = json.loads((mine / "artifacts/plan/train.json").read_text())["passes"]
    assert sorted(len(group) for group in passes) == [1, 1, 1, 1, 1, 3]
    before = manifests(mine)
    for row in ("transcoder", "molt"):
        Artifact(mine / "artifacts" / "train" / made_of(row, mine, "train").name).clear()
    assert "init: 1 made" in lmsae("init").err
    assert "train: 3 made" in lmsae("train").err
    after = manifests(mine)
    assert {name: after[name] for name in before} == before
    (added,) = set(after) - set(before) - {f"init/{key}" for key in keys(mine, "init")}
    written = json.loads((mine / "artifacts" / added / "run.json").read_text())
    assert written["facts"]["in_pass"] == 3
