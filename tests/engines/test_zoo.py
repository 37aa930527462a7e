"""config/zoo, one row of each architecture, through Snakemake: its sheet as shipped, its numbers made small."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmsae.dictionary.dictionary import WEIGHTS, Dictionary
from lmsae.interop.saelens import obstacle
from lmsae.planning.catalog import CATALOG
from lmsae.stages.publishing import SAELENS_FILES, SOURCE, WHY_NOT
from tests.engines.sweep import REPOSITORY, Sweep, new_sweep
from tests.miniature import manifests

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]
HEADLINES = ("l0", "explained_variance", "ce_loss_score_mean", "dead_share", "mse")
SMALL: dict[str, dict[str, Any]] = {
    "tokenize": {
        "context_size": 32,
        "tokens": 4096,
        "held_out_tokens": 1024,
        "held_out_fraction": 0.2,
        "calibration_tokens": 512,
    },
    "init": {"tokens": 256},
    "sae": {"d_sae": 128},
    "train": {"tokens": 2048, "batch_size": 256, "window_tokens": 1024, "dead_threshold": 1024},
    "eval": {"tokens": 512},
    "runtime": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A folder in which Snakemake has finished config/zoo, made small; not to be changed."""
    sweep = new_sweep(tmp_path_factory.mktemp("zoo"))
    shutil.copytree(REPOSITORY / "config" / "zoo", sweep.folder / "config" / "zoo")
    config = sweep.folder / "config" / "zoo" / "config.yaml"
    shipped = yaml.safe_load(config.read_text())
    sections = shipped.keys() | SMALL.keys()
    config.write_text(yaml.safe_dump({name: shipped.get(name, {}) | SMALL.get(name, {}) for name in sections}))
    sweep.snakemake("--config", "folder=config/zoo")
    return sweep


def results(zoo: Sweep) -> Path:
    return zoo.folder / "results" / "zoo"


def test_the_zoo_shares_its_tokens_and_reads_every_hook_point_once(zoo: Sweep) -> None:
    made = Counter(reference.partition("/")[0] for reference in manifests(zoo.folder))
    assert made["tokenize"] == 1
    assert made["activations"] == made["norm"] == 13
    assert made["train"] == made["eval"] == len(CATALOG)
    assert {path.name for path in (results(zoo) / "rows").iterdir()} == CATALOG.keys()


@pytest.mark.parametrize("name", CATALOG)
def test_every_architecture_has_been_trained(zoo: Sweep, name: str) -> None:
    made = {stage: (results(zoo) / "rows" / name / stage).resolve() for stage in ("init", "train")}
    dictionary = Dictionary.load(made["train"])
    config = dictionary.config
    assert (config.geometry.kind, config.act_fn.kind) == (CATALOG[name].geometry, CATALOG[name].act_fn)
    assert all(value.isfinite().all() for value in dictionary.parameters())
    assert (made["init"] / "weights.safetensors").read_bytes() != (made["train"] / WEIGHTS).read_bytes()


def test_every_architecture_has_finite_metrics_and_a_row_in_the_table(zoo: Sweep) -> None:
    metrics = json.loads((results(zoo) / "metrics.json").read_text())
    with open(results(zoo) / "table.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert metrics.keys() == rows.keys() == CATALOG.keys()
    for name, measured in metrics.items():
        assert {*HEADLINES} <= {*measured}, name
        assert [metric for metric, value in measured.items() if not math.isfinite(value)] == [], name
        assert 0 < measured["l0"] < measured["d_sae"], name
        assert rows[name]["sae.architecture"] == name
        assert all(float(rows[name][metric]) == pytest.approx(value) for metric, value in measured.items()), name


@pytest.mark.parametrize("name", CATALOG)
def test_every_architecture_has_a_saelens_folder_or_says_why_not(zoo: Sweep, name: str) -> None:
    folder = results(zoo) / "saelens" / name
    reason = obstacle(Dictionary.load(results(zoo) / "rows" / name / "train").config)
    written = {path.name for path in folder.iterdir() if path.name != SOURCE}
    assert written == ({WHY_NOT} if reason else SAELENS_FILES - {WHY_NOT, SOURCE})
    assert reason is None or reason in (folder / WHY_NOT).read_text()
