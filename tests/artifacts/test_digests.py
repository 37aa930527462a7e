"""The memory for digests."""

import hashlib
import os
from pathlib import Path

import pytest

from lmsae.artifacts.digests import DigestCache


def never() -> str:
    raise AssertionError("computed again")


def test_a_digest_is_computed_once_and_remembered_across_processes(tmp_path: Path) -> None:
    first = DigestCache(tmp_path / "digests.json")
    assert first.look_up("key", lambda: "digest") == "digest"
    assert first.look_up("key", never) == "digest"
    first.save()
    assert DigestCache(tmp_path / "digests.json").look_up("key", never) == "digest"


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    assert DigestCache(tmp_path / "d.json").digest_file(tmp_path / "file") == hashlib.sha256(b"text").hexdigest()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "file", DigestCache(tmp_path / "d.json")
    file.write_bytes(b"text")
    before = cache.digest_file(file)
    state = file.stat()
    file.write_bytes(b"TEXT")  # of the same size
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert cache.digest_file(file) == hashlib.sha256(b"TEXT").hexdigest() != before


@pytest.mark.parametrize("broken", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
def test_a_broken_memory_is_forgotten(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "digests.json").write_bytes(broken)
    assert DigestCache(tmp_path / "digests.json").look_up("key", lambda: "digest") == "digest"


def test_an_unchanged_memory_is_not_written(tmp_path: Path) -> None:
    DigestCache(tmp_path / "digests.json").save()
    assert not (tmp_path / "digests.json").exists()
