"""The Slurm profile on a real Slurm of one node."""

from collections.abc import Iterator

import pytest

from tests.engines.slurm import one_node_slurm
from tests.engines.sweep import Sweep
from tests.miniature import manifests

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
