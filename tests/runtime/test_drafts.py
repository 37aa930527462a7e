"""Drafts: a file gets its name when it is whole."""

from pathlib import Path

import pytest

from lmsae.runtime.drafts import DRAFT, draft_of, name_draft


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
