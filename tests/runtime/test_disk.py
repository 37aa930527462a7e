"""The disk: room is asked for before writing, and a full disk has one message."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lmsae.errors import NoSpaceError
from lmsae.runtime.disk import explain_full_disk, require_space


def test_room_is_asked_for_in_bytes_of_the_disk_that_will_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1000, 1000))
    require_space(tmp_path / "not" / "yet" / "there", 1000, "write less")
    with pytest.raises(NoSpaceError, match=r"\(1,001 bytes\).*\(1,000 bytes\) free.*lmsae gc.*write less, or set"):
        require_space(tmp_path / "not" / "yet" / "there", 1001, "write less")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_is_named_with_a_way_out(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with explain_full_disk(tmp_path / "here"), path.open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(NoSpaceError, match=r"here: the disk became full.*lmsae gc.*run again"):
        fill(Path("/dev/full"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_text_where_an_error_has_no_number(tmp_path: Path, number: int) -> None:
    with pytest.raises(NoSpaceError), explain_full_disk(tmp_path):
        raise SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})")


def test_a_limit_of_a_files_size_is_told_apart_from_a_full_disk(tmp_path: Path) -> None:
    for error in (OSError(errno.EFBIG, "File too large"), SafetensorError("I/O error: File too large (os error 27)")):
        with (
            pytest.raises(NoSpaceError, match="larger than its disk, or `ulimit -f`, allows"),
            explain_full_disk(tmp_path),
        ):
            raise error


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explain_full_disk(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(NoSpaceError, match="first"), explain_full_disk(tmp_path):
        raise NoSpaceError("first")
