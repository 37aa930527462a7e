"""A new project: a folder with a sweep, and with what each engine needs to run it with the installed lmsae."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lmsae.errors import FolderError
from lmsae.project import FILES

_NAMES_THERE = {"gitignore": ".gitignore", "dvcignore": ".dvcignore", "dvc": ".dvc"}
"""Files and folders that have other names here, so that git and DVC do not take them for their own."""
_DVC_IGNORES = "/config.local\n/tmp\n/cache\n"
_SWEEP_OF_DVC = "sweep: main"


def start_project(folder: Path, say: Callable[[str], None]) -> None:
    """Write a small project into a folder that is empty or not there. Raises FolderError for any other: nothing is
    overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise FolderError(f"{folder} {what}: a new project needs an empty folder, or one that is not there yet.")
    name = folder.resolve().name
    for source, target in _files(folder):
        text = source.read_text("utf-8")
        if target.name == "dvc.yaml":
            text = text.replace(_SWEEP_OF_DVC, f'sweep: "{_plain(name)}"')
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("# NAME\n", f"# {name}\n") if target.name == "README.md" else text, "utf-8")
    if (folder / ".dvc").is_dir():
        (folder / ".dvc/.gitignore").write_text(_DVC_IGNORES)
    say(f"made a project in {folder}; its README.md has the commands")


def _plain(name: str) -> str:
    """A folder's name in letters that mean nothing to a shell: it stands in the commands of dvc.yaml."""
    return "-".join(filter(None, re.split(r"[^A-Za-z0-9_]+", name))) or "main"


def _files(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each file of a project, here and in the folder. A folder inside a DVC repository belongs to that one."""
    is_inside = any((parent / ".dvc").is_dir() for parent in folder.resolve().parents)
    for source in sorted(FILES.rglob("*")):
        top, *rest = source.relative_to(FILES).parts
        if source.is_file() and source.suffix not in (".py", ".pyc") and not (top == "dvc" and is_inside):
            yield source, folder.joinpath(_NAMES_THERE.get(top, top), *rest)
