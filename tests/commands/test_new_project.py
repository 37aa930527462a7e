"""A new project: what is in it, and what is never overwritten."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lmsae.planning.plan import plan_of
from lmsae.planning.sheet import columns
from tests.miniature import Said

Lmsae = Callable[..., Said]
FILES = {
    "Snakefile",
    "dvc.yaml",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots/lines.json",
    ".dvc/plots/points.json",
    ".gitignore",
    "README.md",
    "config/config.yaml",
    "config/sweep.tsv",
    "profiles/default/config.yaml",
    "profiles/slurm/config.yaml",
}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_new_project_has_what_every_engine_needs(tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("new", str(tmp_path / "mine"))
    assert (said.code, said.err) == (0, "")
    assert files(tmp_path / "mine") == FILES
    assert (tmp_path / "mine/README.md").read_text().startswith("# mine\n")


@pytest.mark.parametrize(
    ("name", "sweep"), [("mine", "mine"), ("my first $(project)", "my-first-project"), (".x", "x"), ("2", "2")]
)
def test_dvc_keeps_its_plan_under_the_name_of_the_folder_in_letters_that_no_shell_minds(
    tmp_path: Path, lmsae: Lmsae, name: str, sweep: str
) -> None:
    lmsae("new", str(tmp_path / name))
    assert {"sweep": sweep} in yaml.safe_load((tmp_path / name / "dvc.yaml").read_text())["vars"]


def test_the_sweep_of_a_new_project_can_be_planned_as_it_is(
    tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    lmsae("new", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path / "mine")
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    assert [row.name for row in plan.rows] == ["topk-l2-k16", "topk-l2-k32", "batchtopk-l2-k16", "batchtopk-l2-k32"]
    readme = Path("README.md").read_text()
    assert "lmsae run topk-l2-k16 " in readme
    written = yaml.safe_load(Path("config/config.yaml").read_text())
    named = {f"{section}.{name}" for section in written.keys() - {"runtime"} for name in written[section]}
    assert named <= columns()


@pytest.mark.parametrize("name", ["note.txt", ".git/config"])
def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_is(tmp_path: Path, lmsae: Lmsae, name: str) -> None:
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("mine")
    said = lmsae("new", str(tmp_path / "mine"))
    assert said.code == 2
    assert f"{tmp_path / 'mine'} is not empty: a new project needs an empty folder" in said.err
    assert files(tmp_path / "mine") == {name}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, lmsae: Lmsae) -> None:
    (tmp_path / "mine").write_text("mine")
    said = lmsae("new", str(tmp_path / "mine"))
    assert (said.code, "is a file: a new project needs" in said.err) == (2, True)


def test_an_empty_folder_is_filled(tmp_path: Path, lmsae: Lmsae) -> None:
    (tmp_path / "mine").mkdir()
    assert lmsae("new", str(tmp_path / "mine")).code == 0
    assert files(tmp_path / "mine") == FILES


def test_an_empty_folder_that_is_filled_is_the_same_folder_so_that_a_shell_may_stand_in_it(
    tmp_path: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert lmsae("new", ".").code == 0
    assert files(Path.cwd()) == files(tmp_path / "mine") == FILES
    assert Path("README.md").read_text().startswith("# mine\n")


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from lmsae.commands.new_project import start_project

STEPS = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove"}

def count(event, arguments):
    global left
    if event in STEPS and str(arguments[0]).startswith(sys.argv[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

for left in itertools.count():
    folder = Path(sys.argv[1]) / str(left) / "mine"
    (folder if sys.argv[2:] else folder.parent).mkdir(parents=True)
    if os.fork() == 0:
        sys.addaudithook(count)
        start_project(folder, lambda _: None)
        os._exit(0)
    status = os.wait()[1]
    if status != signal.SIGKILL:
        break
print(left, status)
"""
"""Makes a project for each of its steps in the file system, in a process that is killed just before that step; the last
is whole. It forks, so it is a process without threads."""


@pytest.mark.parametrize("is_there", [False, True])
def test_a_project_whose_making_was_killed_at_any_step_is_none_and_can_be_made_again(
    tmp_path: Path, lmsae: Lmsae, is_there: bool
) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), *(["is there"] if is_there else [])]
    steps, status = map(int, subprocess.run(arguments, capture_output=True, check=True, text=True).stdout.split())
    assert status == 0
    assert files(tmp_path / str(steps) / "mine") == FILES
    assert steps > 2 * len(FILES)
    refused = 0
    for step in range(steps):
        folder = tmp_path / str(step) / "mine"
        left = {name for name in files(folder) if ".draft/" not in name} if folder.exists() else set()
        if left and left != FILES:  # killed between two renames: there is no config, and so nothing to run
            refused += 1
            assert not (folder / "config").exists()
            assert "is not empty" in lmsae("new", str(folder)).err
        elif not left:
            assert folder.exists() == is_there
            assert lmsae("new", str(folder)).code == 0
            assert files(folder) == FILES
    assert refused == (7 if is_there else 0)


def test_a_project_inside_a_repository_of_dvc_belongs_to_that_one(tmp_path: Path, lmsae: Lmsae) -> None:
    lmsae("new", str(tmp_path / "first"))
    assert lmsae("new", str(tmp_path / "first/second")).code == 0
    assert files(tmp_path / "first/second") == {name for name in FILES if not name.startswith(".dvc/")}
