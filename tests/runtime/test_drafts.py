"""Drafts: a file or folder gets its name when it is whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.errors import ArtifactError
from lmsae.runtime.drafts import DRAFT, draft_of, draft_of_folder, name_draft


def test_no_two_drafts_have_one_name() -> None:
    names = {name_draft(Path("folder/file.json")).name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".file.json.") and name.endswith(DRAFT) for name in names)


def test_a_file_gets_its_name_when_it_is_whole_and_nothing_stays_after_an_error(tmp_path: Path) -> None:
    with draft_of(tmp_path / "file") as draft:
        draft.write_text("whole")
        assert not (tmp_path / "file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def fail() -> None:
        with draft_of(tmp_path / "file") as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "new"
    if is_there:
        folder.mkdir()
    with draft_of_folder(folder) as draft:
        (draft / "file").write_text("whole")
        assert not (folder / "file").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["new", "new/file"]


def fill(folder: Path, meanwhile: Callable[[], None]) -> None:
    with draft_of_folder(folder) as draft:
        (draft / "file").write_text("ours")
        meanwhile()


def test_a_folder_that_was_not_filled_to_the_end_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "new", fail)
    assert not [*tmp_path.iterdir()]


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    def intrude() -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "file").write_text("theirs")

    for meanwhile in (intrude, lambda: pytest.fail("nothing is begun")):  # while ours is being written, and before
        with pytest.raises(ArtifactError, match="mine is not empty; name a new folder"):
            fill(tmp_path / "mine", meanwhile)
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["mine", "mine/file"]
        assert (tmp_path / "mine" / "file").read_text() == "theirs"


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with draft_of_folder(tmp_path / "link") as draft:
        (draft / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").exists()
