"""The memory for digests."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.digests import NAME, DigestCache
from tests.miniature import Said


def never() -> str:
    raise AssertionError("computed again")


def test_a_digest_is_computed_once_and_remembered_across_processes(tmp_path: Path) -> None:
    first = DigestCache(tmp_path)
    assert first.look_up("key", lambda: "digest") == "digest"
    assert first.look_up("key", never) == "digest"
    first.save()
    assert DigestCache(tmp_path).look_up("key", never) == "digest"


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    assert DigestCache(tmp_path).digest_file(tmp_path / "file") == hashlib.sha256(b"text").hexdigest()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "file", DigestCache(tmp_path)
    file.write_bytes(b"text")
    before = cache.digest_file(file)
    state = file.stat()
    file.write_bytes(b"TEXT")  # of the same size
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert cache.digest_file(file) == hashlib.sha256(b"TEXT").hexdigest() != before


@pytest.mark.parametrize("broken", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"key": 3}'])
def test_a_broken_memory_is_forgotten(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / NAME).write_bytes(broken)
    assert DigestCache(tmp_path).look_up("key", lambda: "digest") == "digest"


def test_an_unchanged_memory_is_not_written(tmp_path: Path) -> None:
    DigestCache(tmp_path).save()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("of_model", [True, False])
def test_a_wrong_digit_is_found_by_the_job_that_reads_the_files_and_is_planned_once_only(
    fresh: Path, lmsae: Callable[..., Said], of_model: bool
) -> None:
    assert lmsae("plan").code == 0
    memory = fresh / "artifacts" / NAME
    known = json.loads(memory.read_text())
    wrong = {key: digest[::-1] for key, digest in known.items() if (str(fresh / "model") in key) == of_model}
    assert wrong
    memory.write_text(json.dumps(known | wrong))
    assert lmsae("plan").code == 0
    said = lmsae("tokenize")
    assert (said.code, "Plan again" in said.err) == (2, True)
    assert not memory.exists()
    assert {lmsae(command).code for command in ("plan", "tokenize")} == {0}


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_nothing_costs_the_memory_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path) -> Path:
        raise OSError(number, os.strerror(number), str(path))

    cache = DigestCache(tmp_path)
    assert cache.look_up("key", lambda: "digest") == "digest"
    monkeypatch.setattr("lmsae.runtime.drafts.name_draft", refuse)
    cache.save()
    assert cache.look_up("key", never) == "digest"
