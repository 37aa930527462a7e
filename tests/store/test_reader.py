import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from lmsae.errors import DamagedArtifact, MissingArtifact
from lmsae.store.norms import TokenNorms, norms_path
from lmsae.store.reader import StoreReader

from .conftest import MakeStore, rename_shards


def test_any_range_of_contexts_is_read_in_token_order(make_store: MakeStore) -> None:
    activations = torch.randn(29, 8, 3)
    reader = StoreReader(make_store(activations))
    for start in range(30):
        for stop in range(start, 30):
            assert torch.equal(reader.read(start, stop), activations[start:stop])
    with pytest.raises(IndexError, match="20 to 30 of 29"):
        reader.read(20, 30)


def test_what_is_read_is_asked_for_first(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, calls = StoreReader(make_store(torch.randn(29, 8, 3))), list[tuple[str, list[int]]]()
    announce, read_chunks = reader.announce, reader.read_chunks
    monkeypatch.setattr(reader, "announce", lambda chunks: (calls.append(("ask", chunks.tolist())), announce(chunks)))
    monkeypatch.setattr(
        reader, "read_chunks", lambda chunks, out: (calls.append(("read", chunks.tolist())), read_chunks(chunks, out))
    )
    reader.read(5, 13)
    assert calls == [("ask", [1, 2, 3]), ("read", [1, 2, 3])]


def test_chunks_are_read_one_behind_the_other_in_any_order(make_store: MakeStore) -> None:
    activations = torch.randn(28, 8, 3)
    reader = StoreReader(make_store(activations))
    out = reader.buffer(4 * 32)
    reader.read_chunks(np.array([5, 0, 6, 1]), out)
    assert torch.equal(out.view(4, 4, 8, 3), activations.view(7, 4, 8, 3)[[5, 0, 6, 1]])


def test_every_flipped_byte_of_a_shard_is_found(make_store: MakeStore) -> None:
    path = make_store(torch.randn(21, 8, 3))
    shard = path / "c/1/0/0"
    healthy = shard.read_bytes()
    for offset in range(0, len(healthy), 3):
        shard.write_bytes(healthy[:offset] + bytes([healthy[offset] ^ 0x40]) + healthy[offset + 1 :])
        with pytest.raises(DamagedArtifact, match=r"c/1/0/0: .*lmsae verify"):
            StoreReader(path).read(0, 21)


def test_damage_names_the_chunk_and_leaves_the_others_readable(make_store: MakeStore) -> None:
    activations = torch.randn(21, 8, 3)
    path = make_store(activations)
    with (path / "c/1/0/0").open("r+b") as shard:
        shard.seek(4 * 8 * 3 * 4 + 4 + 10)  # behind the first chunk and its checksum
        shard.write(b"\0\0\0\0")
    reader = StoreReader(path)
    assert torch.equal(reader.read(0, 16), activations[:16])
    assert torch.equal(reader.read(20, 21), activations[20:])
    with pytest.raises(DamagedArtifact, match=r"c/1/0/0: chunk 1 \(bytes 388 to 776\)"):
        reader.read(16, 20)


def test_a_chunk_that_other_software_dropped_as_empty_is_damage(make_store: MakeStore) -> None:
    path = make_store(torch.randn(21, 8, 3))
    zarr.open_array(path, mode="r+", config={"write_empty_chunks": False})[4:8] = 0
    with pytest.raises(DamagedArtifact, match=r"c/0/0/0: its index"):
        StoreReader(path).read(0, 4)


def test_a_shard_cut_short_or_missing_is_named(make_store: MakeStore) -> None:
    path = make_store(torch.randn(21, 8, 3))
    with (path / "c/1/0/0").open("r+b") as shard:
        shard.truncate(20)
    with pytest.raises(DamagedArtifact, match=r"c/1/0/0: its index"):
        StoreReader(path).read(0, 21)
    (path / "c/1/0/0").unlink()
    with pytest.raises(DamagedArtifact, match=r"c/1/0/0: the file is missing"):
        StoreReader(path).read(0, 21)


def test_a_file_and_a_folder_in_each_others_place_are_a_missing_shard(make_store: MakeStore) -> None:
    path = make_store(torch.randn(41, 8, 3))
    (path / "c/1/0/0").unlink()
    (path / "c/1/0/0").mkdir()
    shutil.rmtree(path / "c/2")
    (path / "c/2").touch()
    for shard in (1, 2):
        with pytest.raises(DamagedArtifact, match=rf"c/{shard}/0/0: the file is missing"):
            StoreReader(path).read(12 * shard, 12 * shard + 1)


def test_a_store_whose_shards_have_their_older_names_is_read_too(make_store: MakeStore) -> None:
    path = make_store(activations := torch.randn(41, 8, 3))
    norms = TokenNorms(path)[0:41]
    for array in (path, norms_path(path)):
        rename_shards(array)
    assert (path / "c.3.0.0").is_file()
    assert torch.equal(StoreReader(path).read(0, 41), activations)
    np.testing.assert_array_equal(TokenNorms(path)[0:41], norms)


def test_a_store_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="no activation store here"):
        StoreReader(tmp_path / "nowhere")


def test_damaged_metadata_is_named(make_store: MakeStore) -> None:
    path = make_store(torch.randn(21, 8, 3))
    metadata = json.loads((path / "zarr.json").read_text())

    def write(change: dict) -> None:
        (path / "zarr.json").write_text(json.dumps(metadata | change))

    write({"shape": [22, 8, 3]})
    with pytest.raises(DamagedArtifact, match=r"zarr\.json: attributes and array disagree"):
        StoreReader(path)
    write({"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}})
    with pytest.raises(DamagedArtifact, match=r"zarr\.json: names the first shard 0\.0\.0; wanted c/0/0/0"):
        StoreReader(path)
    write({"attributes": {}})
    with pytest.raises(DamagedArtifact, match=r"zarr\.json: cannot be read"):
        StoreReader(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(DamagedArtifact, match=r"zarr\.json: cannot be read"):
        StoreReader(path)
