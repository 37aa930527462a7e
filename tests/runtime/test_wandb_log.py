"""Weights & Biases: off unless asked for, and offline without a login."""

import subprocess
import sys
from pathlib import Path

import pytest

from lmsae.runtime.runtime import Runtime, Wandb
from lmsae.runtime.wandb_log import curves_logger

OFFLINE = """
from lmsae.runtime.runtime import Runtime, Wandb
from lmsae.runtime.wandb_log import curves_logger
log = curves_logger("train/0123", {"lr": 0.1}, Runtime(wandb=Wandb(mode="offline", project="mine")))
assert log is not None
log({"step": 0, "loss": 2.5})
log({"step": 10, "loss": 1.5})
log.finish()
"""


def test_it_is_off_by_default_and_then_not_even_imported() -> None:
    code = (
        "import sys; from lmsae.runtime.runtime import Runtime; from lmsae.runtime.wandb_log import curves_logger\n"
        "print(curves_logger('a', {}, Runtime()), 'wandb' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]


@pytest.mark.parametrize("mode", ["off"])
def test_off_means_no_logger(mode: str) -> None:
    assert curves_logger("a", {}, Runtime(wandb=Wandb.model_validate({"mode": mode}))) is None


def test_offline_curves_are_written_without_a_login_or_a_network(tmp_path: Path) -> None:
    home = {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"train/0123" in run.read_bytes()
