import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmsae.errors import ArtifactError, DamagedArtifact, NoSpaceError, NotEnoughTokens, ShapeError, SourceError
from lmsae.store.array import create_array
from lmsae.store.layout import Layout
from lmsae.store.norms import TokenNorms, norms_path
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter, drop_unfinished, finished_contexts

from .conftest import MakeLayout, MakeStore, rename_shards


def write(writer: StoreWriter, *batches: Tensor) -> None:
    with writer:
        for batch in batches:
            writer.append(batch)


def files(path: Path) -> dict[str, bytes]:
    """Every file below a folder; a folder with nothing in it counts as a file without bytes."""
    below = [entry for entry in path.rglob("*") if entry.is_file() or not any(entry.iterdir())]
    return {entry.relative_to(path).as_posix(): entry.read_bytes() if entry.is_file() else b"" for entry in below}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("contexts", [1, 4, 12, 13, 41])
def test_activations_come_back_as_written(make_store: MakeStore, contexts: int, dtype: str) -> None:
    activations = torch.randn(contexts, 8, 3)
    path = make_store(activations, dtype)
    reader = StoreReader(path)
    assert (reader.contexts, reader.context_size, reader.width, reader.dtype) == (contexts, 8, 3, dtype)
    assert torch.equal(reader.read(0, contexts), activations.to(getattr(torch, dtype)).float())
    assert sum(file.stat().st_size for file in path.glob("c/*/0/0")) == reader.layout.nbytes


def test_the_metadata_say_what_the_dimensions_are_and_name_shards_as_zarr_does(make_store: MakeStore) -> None:
    path = make_store(torch.randn(41, 8, 3), "bfloat16")
    metadata = json.loads((path / "zarr.json").read_text())
    assert metadata["dimension_names"] == ["context", "position", "width"]
    assert metadata["attributes"]["dtype"] == "bfloat16"
    assert metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}


def test_shards_are_byte_for_byte_those_of_zarr_python(make_store: MakeStore, tmp_path: Path) -> None:
    activations = torch.randn(41, 8, 3)
    ours = make_store(activations)
    create_array(tmp_path / "theirs", StoreReader(ours).layout)
    zarr.open_array(tmp_path / "theirs", config={"write_empty_chunks": True})[:] = activations.numpy()
    assert files(ours) == files(tmp_path / "theirs")


@given(cuts=st.lists(st.integers(0, 41), max_size=6).map(sorted))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_do_not_depend_on_how_contexts_were_appended(
    make_store: MakeStore, small_layout: MakeLayout, tmp_path: Path, cuts: list[int]
) -> None:
    activations = torch.randn(41, 8, 3, generator=torch.Generator().manual_seed(0))
    with StoreWriter(tmp_path / "cut", small_layout(41)) as writer:
        for contexts in torch.tensor_split(activations, cuts):
            writer.append(contexts)
    assert files(tmp_path / "cut") == files(make_store(activations, batch=41))


def test_a_killed_writer_leaves_whole_shards_and_another_goes_on_behind_them(
    make_store: MakeStore, small_layout: MakeLayout, tmp_path: Path
) -> None:
    activations = torch.randn(41, 8, 3)
    path, layout = tmp_path / "killed", small_layout(41)
    assert finished_contexts(path, layout) == 0
    with pytest.raises(NotEnoughTokens, match="30 of 41"):
        write(StoreWriter(path, layout), activations[:30])
    assert sorted(files(path)) == ["c/0/0/0", "c/1/0/0", "c/2/0", "zarr.json"]
    (path / "c/2/0/.0.0123.draft").write_bytes(b"what a writer leaves that had no time to clean up")
    assert finished_contexts(path, layout) == 24
    drop_unfinished(path, layout, 24)
    write(StoreWriter(path, layout, start_context=24), activations[24:])
    assert files(path) == files(make_store(activations))
    assert finished_contexts(path, layout) == 41


def test_a_damaged_shard_or_another_layout_is_not_finished(make_store: MakeStore, small_layout: MakeLayout) -> None:
    path = make_store(torch.randn(41, 8, 3))
    assert finished_contexts(path, small_layout(40)) == 0
    with pytest.raises(ArtifactError, match="cannot go on writing"):
        StoreWriter(path, small_layout(40), start_context=12)
    with (path / "c/1/0/0").open("r+b") as shard:
        shard.truncate(1000)
    assert finished_contexts(path, small_layout(41)) == 12


def test_a_store_whose_shards_have_their_older_names_is_not_gone_on_with(
    make_store: MakeStore, small_layout: MakeLayout
) -> None:
    path, layout = make_store(torch.randn(41, 8, 3)), small_layout(41)
    for array in (path, norms_path(path)):
        rename_shards(array)
    assert finished_contexts(path, layout) == 0
    with pytest.raises(ArtifactError, match=r"cannot go on writing: .* shards c\.0\.0\.0, wanted .* and c/0/0/0"):
        StoreWriter(path, layout, start_context=12)
    drop_unfinished(path, layout, 0)
    assert files(path) == files(norms_path(path)) == {}


def test_all_that_is_no_whole_shard_is_dropped_whatever_it_is(make_store: MakeStore, small_layout: MakeLayout) -> None:
    path, layout = make_store(activations := torch.randn(41, 8, 3)), small_layout(41)
    whole = files(path), files(norms_path(path))
    for array in (path, norms_path(path)):
        (array / "c/1/0").unlink() if (array / "c/1/0").is_file() else shutil.rmtree(array / "c/1/0")
        (array / "c/1/0/0/0").mkdir(parents=True)  # a folder in a file's place
        (array / "c/7/0").mkdir(parents=True)
        (array / "c/7/0/.0.0123.draft").write_bytes(b"half")
        (array / "c/8").write_bytes(b"a file in a folder's place")
        (array / "elsewhere").symlink_to(array.parent)
        (array / "nowhere").symlink_to(array / "gone")
    assert finished_contexts(path, layout) == 12
    drop_unfinished(path, layout, 12)
    assert sorted(files(path)) == ["c/0/0/0", "zarr.json"]
    assert sorted(files(norms_path(path))) == ["c/0/0", "zarr.json"]
    write(StoreWriter(path, layout, start_context=12), activations[12:])
    assert (files(path), files(norms_path(path))) == whole


def test_a_new_store_takes_the_place_of_an_old_one(make_store: MakeStore) -> None:
    make_store(torch.zeros(41, 8, 3))
    path = make_store(torch.ones(5, 8, 3))
    assert sorted(files(path)) == ["c/0/0/0", "zarr.json"]
    assert torch.equal(StoreReader(path).read(0, 5), torch.ones(5, 8, 3))


def test_float16_overflow_is_refused_with_the_context_and_the_mend(make_store: MakeStore) -> None:
    activations = torch.zeros(41, 8, 3)
    activations[17, 2, 1] = -70_000
    with pytest.raises(SourceError, match=r"context 17 .*70,000.*65,504.*activations.dtype=bfloat16"):
        make_store(activations, "float16")
    assert StoreReader(make_store(activations, "bfloat16")).read(17, 18)[0, 2, 1] == -70_144  # the nearest bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_that_are_no_numbers_are_refused(make_store: MakeStore, dtype: str, value: float) -> None:
    activations = torch.zeros(41, 8, 3)
    activations[17, 2, 1] = value
    with pytest.raises(SourceError, match="context 17 holds NaN or infinity"):
        make_store(activations, dtype)


def test_wrong_shapes_and_wrong_counts_are_refused(tmp_path: Path, small_layout: MakeLayout) -> None:
    with pytest.raises(ShapeError, match=r"\(2, 8, 4\)"):
        write(StoreWriter(tmp_path / "wide", small_layout(3)), torch.zeros(2, 8, 4))
    with pytest.raises(ShapeError, match="behind 2 contexts"):
        write(StoreWriter(tmp_path / "long", small_layout(3)), torch.zeros(2, 8, 3), torch.zeros(2, 8, 3))
    with pytest.raises(NotEnoughTokens, match="2 of 3"):
        write(StoreWriter(tmp_path / "short", small_layout(3)), torch.zeros(2, 8, 3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_disk_that_fills_up_is_reported_and_leaves_no_unfinished_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmsae.store.shard.name_draft", lambda path: path.with_name(f".{path.name}"))
    path = tmp_path / "full"
    writer = StoreWriter(path, Layout(64, 256, 64, "float32", target_shard_bytes=1 << 20))
    writer.append(torch.zeros(1, 256, 64))
    (path / "c/1/0").mkdir(parents=True)
    (path / "c/1/0/.0").symlink_to("/dev/full")  # the second shard meets a full disk
    with pytest.raises(NoSpaceError, match="the disk became full"):
        write(writer, torch.zeros(63, 256, 64))
    assert sorted(files(path)) == ["c/0/0/0", "c/1/0", "zarr.json"]  # of the second shard only its empty folder


def test_a_disk_found_full_only_at_the_end_of_a_shard_is_reported_too(
    tmp_path: Path, small_layout: MakeLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmsae.store.shard.name_draft", lambda path: path.with_name(f".{path.name}"))
    writer = StoreWriter(
        tmp_path / "full", small_layout(5)
    )  # so small that all is written from Python's buffer, at once
    writer.append(torch.zeros(1, 8, 3))
    (tmp_path / "full" / "c/0/0").mkdir(parents=True)
    (tmp_path / "full" / "c/0/0/.0").symlink_to("/dev/full")
    with pytest.raises(NoSpaceError, match="the disk became full"):
        write(writer, torch.zeros(4, 8, 3))
    assert sorted(files(tmp_path / "full")) == ["c/0/0", "zarr.json"]


# int8: a scale for each token, after a mean and a standard deviation for each channel


def outlying(contexts: int, width: int = 24, seed: int = 0) -> Tensor:
    """Activations with a mean, two channels that are a hundred times larger than the others, and tokens of all
    sizes."""
    draw = torch.Generator().manual_seed(seed)
    channels = torch.rand(width, generator=draw) + 0.5
    channels[[3, 7]] *= 100
    tokens = torch.randn(contexts, 8, 1, generator=draw).exp()
    return (torch.randn(contexts, 8, width, generator=draw) * tokens + 3) * channels


def test_int8_loses_little_of_any_channel_though_some_are_far_larger(make_store: MakeStore) -> None:
    x = outlying(41).double()
    stored = StoreReader(make_store(x.float(), "int8")).read(0, 41).double()
    lost = (stored - x).square().sum((0, 1)) / (x - x.mean((0, 1))).square().sum((0, 1))
    assert stored.shape == x.shape
    assert lost.max() < 1e-3
    assert lost.min() > 0


def test_int8_is_decoded_with_plain_zarr_and_numpy(make_store: MakeStore) -> None:
    """Worked out once more from the numbers on disk; the largest of a token takes the whole range."""
    path = make_store(outlying(41), "int8")
    array = zarr.open_array(path, mode="r")
    rows = np.asarray(array[:])
    assert (rows.dtype, rows.shape) == (np.int8, (41, 8, 24 + 4))
    q, scale = rows[..., :24], rows[..., 24:].copy().view("<f4")
    assert (np.abs(q.astype(int)).max(-1) == 127).all()
    mean, std = (np.asarray(array.attrs[f"channel_{name}"]) for name in ("mean", "std"))
    expected = mean + std * scale.astype(np.float64) * q
    np.testing.assert_allclose(StoreReader(path).read(0, 41), expected, rtol=1e-5, atol=1e-3)


def test_int8_takes_its_channels_from_the_first_batch_and_a_writer_that_goes_on_takes_them_over(
    small_layout: MakeLayout, tmp_path: Path
) -> None:
    x, layout = outlying(41), small_layout(41, width=24, dtype="int8")
    write(StoreWriter(tmp_path / "whole", layout), x[:5], x[5:])
    std = np.asarray(zarr.open_array(tmp_path / "whole", mode="r").attrs["channel_std"])
    np.testing.assert_allclose(std, x[:5].double().std((0, 1), correction=0), rtol=1e-6)
    write(StoreWriter(tmp_path / "cut", layout), x[:5], x[5:20], x[20:])
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    with pytest.raises(NotEnoughTokens):
        write(StoreWriter(tmp_path / "killed", layout), x[:5], x[5:30])
    write(StoreWriter(tmp_path / "killed", layout, start_context=24), 1000 * x[24:25], x[25:])
    killed, whole = (StoreReader(tmp_path / name).read(25, 41) for name in ("killed", "whole"))
    assert torch.equal(killed, whole)


def test_int8_stores_channels_that_do_not_move_and_tokens_that_are_all_mean(make_store: MakeStore) -> None:
    x = outlying(41)
    x[..., 5] = 2.5
    x[30:, :, 5] = 7
    stored = StoreReader(make_store(x, "int8")).read(0, 41)
    assert (stored[..., 5] - x[..., 5]).abs().max() < 0.5
    nothing = torch.zeros(41, 8, 3)
    assert torch.equal(StoreReader(make_store(nothing, "int8", name="zero")).read(0, 41), nothing)
    ones = StoreReader(make_store(nothing + 1, "int8", name="one")).read(0, 41)
    assert torch.equal(ones, nothing + 1)


def test_int8_takes_half_the_bytes_of_float16() -> None:
    for width in (256, 512, 4096):
        int8, float16 = (Layout(1000, 256, width, dtype).nbytes for dtype in ("int8", "float16"))
        assert int8 < 0.51 * float16


@pytest.mark.parametrize("change", [{"channel_std": None}, {"channel_std": [1.0, 2.0]}, {"channel_std": [1.0, 0, 2]}])
def test_int8_without_the_moments_of_its_channels_is_damage(make_store: MakeStore, change: dict) -> None:
    path = make_store(torch.randn(21, 8, 3), "int8")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"] = {k: v for k, v in (metadata["attributes"] | change).items() if v is not None}
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(DamagedArtifact, match=r"zarr\.json: cannot be read as the metadata"):
        StoreReader(path)


# The norms of tokens


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_norms_of_raw_activations_lie_beside_every_store(make_store: MakeStore, dtype: str) -> None:
    x = outlying(41)
    path = make_store(x, dtype)
    expected = np.linalg.norm(x.double().numpy(), axis=-1)
    np.testing.assert_allclose(TokenNorms(path)[0:41], expected, rtol=1e-6)
    np.testing.assert_allclose(TokenNorms(path)[10:14], expected[10:14], rtol=1e-6)
    plain = zarr.open_array(norms_path(path), mode="r")
    np.testing.assert_array_equal(plain[:], TokenNorms(path)[0:41])
    assert sum(file.stat().st_size for file in norms_path(path).glob("c/*/0")) == StoreReader(path).layout.norms_nbytes


def test_norms_do_not_depend_on_how_contexts_were_appended(make_store: MakeStore) -> None:
    x = outlying(41)
    paths = [norms_path(make_store(x, name=f"by-{batch}", batch=batch)) for batch in (1, 5, 41)]
    assert files(paths[0]) == files(paths[1]) == files(paths[2])


def test_a_shard_whose_norms_are_damaged_or_missing_is_not_finished(
    make_store: MakeStore, small_layout: MakeLayout
) -> None:
    path = make_store(torch.randn(41, 8, 3))
    file = norms_path(path) / "c/2/0"
    data = file.read_bytes()
    file.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    assert finished_contexts(path, small_layout(41)) == 24
    with pytest.raises(DamagedArtifact, match=r"norms\.zarr: a chunk cannot be read"):
        TokenNorms(path)[24:41]
    file.write_bytes(data[:-8])
    assert finished_contexts(path, small_layout(41)) == 24
    file.unlink()
    assert finished_contexts(path, small_layout(41)) == 24
    drop_unfinished(path, small_layout(41), 12)
    assert sorted(files(norms_path(path))) == ["c/0/0", "zarr.json"]
