"""The Slurm profile on a real Slurm of one node."""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from lmsae.artifacts.artifact import CHECKPOINT
from tests.engines.slurm import one_node_slurm
from tests.engines.sweep import TWO_ROWS, Sweep, environment
from tests.miniature import make_until, manifests, write_sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("engines")]
TRAINED = ("tokenize", "activations", "norm", "init", "train")
# Only how often Snakemake looks is not as the profile has it.
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with one_node_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("cluster")
def test_a_cluster_makes_the_same_artifacts_as_this_machine(by_snakemake: Sweep, empty: Sweep) -> None:
    said = empty.run("snakemake", "--profile", "slurm", "train_all", *QUICK)
    assert "has been submitted with SLURM jobid" in said
    assert "Group job start" in said, "norm and its inits are one submission"
    local = manifests(by_snakemake.folder)
    assert manifests(empty.folder) == {name: text for name, text in local.items() if name.split("/")[0] in TRAINED}


@pytest.mark.usefixtures("cluster")
def test_a_training_that_slurm_stops_is_submitted_again_and_goes_on(
    empty: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(empty.folder, [{**TWO_ROWS[0], "train.epochs": "400", "train.tokens": "600000"}])
    config = empty.folder / "config" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "runtime": {**values["runtime"], "checkpoint_steps": 50}}))
    with monkeypatch.context() as there:
        there.chdir(empty.folder)
        make_until("init")
    command = ["snakemake", "--profile", "slurm", "train_all", *QUICK]
    log = empty.folder / "engine.log"
    with log.open("w") as output:
        engine = subprocess.Popen(command, cwd=empty.folder, env=environment(), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while not list(empty.artifacts.glob(f"train/*/{CHECKPOINT}")):
            assert engine.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        subprocess.run(["scancel", "--user=root"], check=True)
        assert engine.wait(timeout=600) == 0, log.read_text()
    finally:
        engine.kill()
    (run,) = empty.artifacts.glob("train/*/run.json")
    assert json.loads(run.read_text())["facts"]["resumed_from_steps"], "it goes on, and does not begin again"
    assert "Trying to restart job" in log.read_text()
