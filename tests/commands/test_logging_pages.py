"""Pages at Weights & Biases, by its real client offline: rows, sweeps, curves, evaluations, runs that are killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmsae.commands.logging_pages import pages_of
from lmsae.errors import ConfigError
from lmsae.planning.plan import plan_of
from lmsae.runtime.runtime import Runtime
from tests.miniature import CONFIG, ROWS, keys, write_config, write_sweep
from tests.wandb_files import read_runs

ROOT = Path(__file__).parents[2]
MAKE = "from tests.miniature import make_until; make_until({stage!r})"
DIE = """
import os, signal
from lmsae.training import checkpoints
write = checkpoints.Checkpoints.write
def write_and_die(self):
    write(self)
    if self._run.steps_done == 16:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.write = write_and_die
"""


def run(folder: Path, code: str) -> int:
    """Python code in a process of its own, with no login and no server to reach; returns its exit code."""
    home = {"HOME": str(folder.parent), "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment = {**os.environ, **home, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def log_offline(folder: Path, **runtime: Any) -> None:
    wandb = {"mode": "offline", "project": "mine"}
    write_config(folder, train={"eval_steps": 8}, runtime={"wandb": wandb, **runtime})


@pytest.mark.slow
def test_a_row_has_one_page_with_its_curves_and_evaluations_whether_it_was_killed_or_not(fresh: Path) -> None:
    log_offline(fresh, checkpoint_steps=8)
    write_sweep(fresh, ROWS[:1])
    assert run(fresh, DIE + MAKE.format(stage="train")) == -signal.SIGKILL
    run(fresh, MAKE.format(stage="eval"))
    (key,) = keys(fresh, "train")
    *_, resumed, evaluated = runs = read_runs(fresh)
    assert len(runs) == 3
    for logged in (resumed, evaluated):
        assert (logged.id, logged.name, logged.group, logged.project) == (f"train-{key}", "top", "config", "mine")
        assert logged.config["train"]["lr"] == CONFIG["train"]["lr"]
        assert logged.config["tokenize"]["packing"]["context_size"] == 32
        assert logged.config["lmsae"]["artifact"] == f"train/{key}"
    with (fresh / "artifacts/train" / key / "curves.csv").open(newline="") as file:
        curves = {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file)}
    assert {point["_step"]: point["loss"] for point in resumed.history} == pytest.approx(curves)
    # What the client had not written yet when it was killed is lost, so a resumed run tells the points before it again.
    assert all({**curves, point["_step"]: point["loss"]} == pytest.approx(curves) for point in runs[0].history)
    with (fresh / "artifacts/train" / key / "along.csv").open(newline="") as file:
        along = {int(line["steps"]) - 1: float(line["l0"]) for line in csv.DictReader(file)}
    held_out = {point["_step"]: point for point in resumed.history if "held_out/l0" in point}
    assert {step: point["held_out/l0"] for step, point in held_out.items()} == pytest.approx(along)
    assert [*along] == [7, 15, 23, 31]
    (evaluation,) = keys(fresh, "eval")
    metrics = json.loads((fresh / "artifacts/eval" / evaluation / "metrics.json").read_text())
    numbers = {f"eval/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
    assert {name: evaluated.summary[name] for name in numbers} == pytest.approx(numbers)
    (last,) = evaluated.history
    assert last["_step"] == 32
    assert last["eval/log10_density.values"] == metrics["density_histogram"]
    edges = last["eval/log10_density.bins"]
    assert (edges[0], edges[-1], len(edges)) == (-6, 0, 61)
    with (fresh / "artifacts/train" / key / "densities.csv").open(newline="") as file:
        lines = [(int(line["steps"]), int(line["latents"])) for line in csv.DictReader(file)]
    for step, point in held_out.items():
        counts = [latents for steps, latents in lines if steps == step + 1]
        assert point["held_out/log10_density.values"] == counts


def test_rows_that_share_a_dictionary_share_its_page(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmsae.artifacts.artifact import Artifacts

    monkeypatch.chdir(finished)
    artifacts, reference = Artifacts(Path("artifacts")), f"train/{keys(finished, 'train')[1]}"
    evaluation = f"eval/{keys(finished, 'eval')[1]}"
    runtime = Runtime.model_validate({"wandb": {"mode": "offline"}})
    for asked in (reference, evaluation):
        pages = pages_of([asked], artifacts, runtime)
        assert {one: (page.name, page.group) for one, page in pages.items()} == {reference: ("batch", "config")}
        assert {"train", "init", "norm", "activations", "tokenize", "lmsae"} <= pages[reference].config.keys()
    assert pages_of([reference], artifacts, Runtime()) == {}


@pytest.mark.parametrize(
    ("key", "netrc", "is_fine"),
    [
        (None, None, False),
        ("a" * 40, None, True),
        (None, "machine api.wandb.ai login user password " + "a" * 40, True),
        (None, "machine other.org login user password " + "a" * 40, False),
    ],
)
def test_a_missing_login_is_told_by_the_plan(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, netrc: str | None, is_fine: bool
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(fresh))
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if netrc:
        (fresh / ".netrc").write_text(netrc)
        (fresh / ".netrc").chmod(0o600)
    write_config(fresh, runtime={"wandb": {"mode": "online"}})
    config, sheet = Path("config/config.yaml"), Path("config/sweep.tsv")
    if is_fine:
        assert len(plan_of(config, sheet, [], {})[0].rows) == len(ROWS)
        return
    with pytest.raises(ConfigError) as raised:
        plan_of(config, sheet, [], {})
    told = "column runtime.wandb.mode: online needs a login: `wandb login`, or set WANDB_API_KEY"
    assert told in str(raised.value)
    monkeypatch.setattr("lmsae.runtime.wandb_log.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package wandb"):
        plan_of(config, sheet, [], {})
