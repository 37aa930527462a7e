"""A new project: a folder with a sweep, and with what each engine needs to run it with the installed lmsae."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lmsae.errors import FolderError
from lmsae.project import FILES
from lmsae.runtime.disk import explain_full_disk
from lmsae.runtime.drafts import DRAFT, draft_of_folder, name_draft

_NAMES_THERE = {"gitignore": ".gitignore", "dvcignore": ".dvcignore", "dvc": ".dvc"}
"""Files and folders that have other names here, so that git and DVC do not take them for their own."""
_DVC_IGNORES = "/config.local\n/tmp\n/cache\n"
_SWEEP_OF_DVC = "sweep: main"
_CONFIG = "config"


def start_project(folder: Path, say: Callable[[str], None]) -> None:
    """Write a small project into a folder that is empty or not there. Raises FolderError for any other: nothing is
    overwritten.

    Of a call that was killed nothing stays that an engine would run. Drafts that it left do not count.
    """
    if folder.exists() and not (folder.is_dir() and all(_is_draft(path) for path in folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise FolderError(f"{folder} {what}: a new project needs an empty folder, or one that is not there yet.")
    with explain_full_disk(folder), _filling(folder) if folder.is_dir() else draft_of_folder(folder) as draft:
        _write(draft, folder)
    say(f"made a project in {folder}; its README.md has the commands")


@contextlib.contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """A draft inside of a folder, which stays where it is: a shell may stand in it. What the draft holds is moved into
    the folder at the end, the config last, without which no engine does anything."""
    for left in filter(_is_draft, [*folder.iterdir()]):
        shutil.rmtree(left)
    draft = name_draft(folder / "project")
    try:
        draft.mkdir()
        yield draft
        for path in sorted(draft.iterdir(), key=lambda path: (path.name == _CONFIG, path.name)):
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".project.") and path.name.endswith(DRAFT)


def _write(draft: Path, folder: Path) -> None:
    """Write into a draft what is to stand in a folder."""
    name = folder.resolve().name
    for source, target in _files(folder):
        text = source.read_text("utf-8")
        if target == Path("dvc.yaml"):
            text = text.replace(_SWEEP_OF_DVC, f'sweep: "{_plain(name)}"')
        elif target == Path("README.md"):
            text = text.replace("# NAME\n", f"# {name}\n")
        (draft / target).parent.mkdir(parents=True, exist_ok=True)
        (draft / target).write_text(text, "utf-8")
    if (draft / ".dvc").is_dir():
        (draft / ".dvc/.gitignore").write_text(_DVC_IGNORES)


def _plain(name: str) -> str:
    """A folder's name in letters that mean nothing to a shell: it stands in the commands of dvc.yaml."""
    return "-".join(filter(None, re.split(r"[^A-Za-z0-9_]+", name))) or "main"


def _files(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each file of a project, here and by its path in the folder. A folder inside a DVC repository belongs to that
    one."""
    is_inside = any((parent / ".dvc").is_dir() for parent in folder.resolve().parents)
    for source in sorted(FILES.rglob("*")):
        top, *rest = source.relative_to(FILES).parts
        if source.is_file() and source.suffix not in (".py", ".pyc") and not (top == "dvc" and is_inside):
            yield source, Path(_NAMES_THERE.get(top, top), *rest)
