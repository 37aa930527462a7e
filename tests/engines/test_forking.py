"""The program that starts at once is lmsae, and lives no longer than whoever called it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.sweep import environment

pytestmark = pytest.mark.xdist_group("engines")


def call(program: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a program `lmsae` in a folder."""
    command, env = [program / "lmsae", *arguments], environment()
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_it_answers_and_ends_as_the_real_one(program: Path, tmp_path: Path) -> None:
    for arguments in (["--version"], ["plan"], ["nosuch"]):
        here, real = (call(folder, tmp_path, *arguments) for folder in (program, Path(sys.executable).parent))
        assert (here.communicate(timeout=60)[0], here.returncode) == (real.communicate(timeout=60)[0], real.returncode)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_program_that_was_called(program: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "config").mkdir()
    os.mkfifo(tmp_path / "config/config.yaml")
    called = call(program, tmp_path, "plan")
    with open(tmp_path / "config/config.yaml", "w"):  # opens when lmsae reads it, and keeps it waiting
        called.send_signal(number)
        called.communicate(timeout=60)  # ends when nobody holds the stream any more
    assert called.returncode == -number
