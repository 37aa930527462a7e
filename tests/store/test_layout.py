import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from lmsae.errors import NoSpaceError
from lmsae.store.layout import Layout, require_space


def test_chunks_are_whole_contexts_of_about_1024_tokens() -> None:
    assert Layout(100, 256, 768, "float16").chunk_contexts == 4
    assert Layout(100, 100, 768, "float16").chunk_contexts == 10
    assert Layout(100, 2048, 768, "float16").chunk_contexts == 1


def test_shards_are_at_most_128_mib_and_at_most_the_array() -> None:
    large = Layout(100_000, 256, 768, "float16")
    assert large.chunk_bytes == 1024 * 768 * 2
    assert large.shard_chunks == 85  # 85.3 chunks of 1.5 MiB in 128 MiB
    assert large.shards == 295  # 25,000 chunks
    assert Layout(10, 256, 768, "float16").shard_chunks == 3
    assert Layout(10, 8192, 16_384, "float32").shard_chunks == 1  # one chunk alone is larger


def test_bytes_on_disk_count_checksums_and_indexes() -> None:
    layout = Layout(10, 256, 768, "bfloat16")
    assert layout.nbytes == 3 * (1024 * 768 * 2 + 4) + (3 * 16 + 4)


def test_a_disk_with_too_little_room_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1000, 1000))
    require_space(tmp_path / "not" / "yet" / "there", 1000)
    with pytest.raises(NoSpaceError, match=r"\(1,001 bytes\).*\(1,000 bytes\).*bfloat16"):
        require_space(tmp_path / "not" / "yet" / "there", 1001)
    assert not (tmp_path / "not").exists()
