"""The configurations in config/ that can be run as they are: loaded and planned as shipped, with no field replaced."""

import csv
import tomllib
from pathlib import Path

import pytest
import yaml

from lmsae.planning.catalog import CATALOG
from lmsae.planning.plan import Plan, plan_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages import ROW_STAGES, STAND_INS

ROOT = Path(__file__).resolve().parent.parent
CONFIG, ZOO = ROOT / "config", ROOT / "config" / "zoo"
SWEEPS = pytest.mark.parametrize("folder", [CONFIG, ZOO], ids=["config", "zoo"])


def planned(config: Path, sweep: Path | None, artifacts: Path) -> tuple[Plan, Runtime]:
    return plan_of(config, sweep, [], {"artifacts": artifacts})


def cells(folder: Path) -> list[dict[str, str]]:
    with open(folder / "sweep.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_file_that_holds_a_configuration_is_planned_here_or_with_the_examples() -> None:
    found = {path.relative_to(CONFIG) for kind in ("*.yaml", "*.tsv", "*.toml") for path in CONFIG.rglob(kind)}
    here = {Path(name) for name in ("config.yaml", "sweep.tsv", "experiment.toml", "zoo/config.yaml", "zoo/sweep.tsv")}
    assert {path for path in found if path.parts[0] != "examples"} == here


@SWEEPS
def test_a_shipped_sweep_can_be_planned_as_it_is(folder: Path, tmp_path: Path) -> None:
    plan, runtime = planned(folder / "config.yaml", folder / "sweep.tsv", tmp_path)
    shared = yaml.safe_load((folder / "config.yaml").read_text())
    assert [row.name for row in plan.rows] == [row["name"] for row in cells(folder)]
    assert all(row.specs.keys() >= {*ROW_STAGES} - {*STAND_INS} for row in plan.rows)
    assert {row.specs["train"].config["tokens"] for row in plan.rows} == {shared["train"]["tokens"]}
    assert runtime.results == Path(shared["runtime"]["results"])


def test_the_shipped_experiment_can_be_planned_as_it_is(tmp_path: Path) -> None:
    plan, runtime = planned(CONFIG / "experiment.toml", None, tmp_path)
    shared = tomllib.loads((CONFIG / "experiment.toml").read_text())
    (row,) = plan.rows
    dictionary = row.specs["train"].config["dictionary"]
    assert row.name == shared["name"]
    assert (dictionary["act_fn"]["kind"], dictionary["act_fn"]["k"]) == ("batchtopk", shared["sae"]["k"])
    assert row.specs["activations"].config["hook_point"] == shared["sae"]["hook_point"]
    assert runtime.results == Path(shared["runtime"]["results"])


def test_the_shipped_configurations_report_into_folders_of_their_own(tmp_path: Path) -> None:
    shipped = [(folder / "config.yaml", folder / "sweep.tsv") for folder in (CONFIG, ZOO)]
    results = [planned(*sources, tmp_path)[1].results for sources in (*shipped, (CONFIG / "experiment.toml", None))]
    assert len({*results}) == 3


def test_the_zoo_has_one_row_of_each_architecture() -> None:
    assert [row["sae.architecture"] for row in cells(ZOO)] == list(CATALOG)
    assert all(row["name"] == row["sae.architecture"] for row in cells(ZOO))
