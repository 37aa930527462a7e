"""Entries of SAELens' table, from a cache of the hub that holds two of them in the layouts of their authors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.digests import DigestCache
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ChangedSource, FolderError
from lmsae.planning.finder import Finder
from lmsae.runtime.runtime import Runtime
from lmsae.stages.imported import STAGE
from lmsae.stages.stage import Job

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RNG = np.random.default_rng(0)
OLD = "gpt2-small-res-jb:blocks.8.hook_resid_pre"
GEMMA = "gemma-scope-2b-pt-res:embedding/width_4k/average_l0_6"


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def publish(cache: Path, repository: str, folder: str) -> Path:
    """A folder of a repository in the cache of the hub's client."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    made = root / "snapshots" / COMMIT / folder
    made.mkdir(parents=True)
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def import_of(name: str, out: Path) -> Job:
    artifacts = Artifacts(out / "artifacts")
    found = Finder(artifacts, DigestCache(artifacts.root)).find(name)
    out.mkdir(exist_ok=True)
    return Job("import/mine", STAGE.config.model_validate(found.content.model_dump()), {}, out)


def made_of(job: Job) -> Dictionary:
    ((_, ended),) = STAGE.make([job], Runtime(device="cpu"))
    if isinstance(ended, Exception):
        raise ended
    return Dictionary.load(job.out)


def publish_old(cache: Path) -> dict[str, Any]:
    """An SAE in the layout that SAELens had before its version 6."""
    folder = publish(cache, "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre")
    weights = {"W_enc": random(6, 24), "b_enc": random(24), "W_dec": random(24, 6), "b_dec": random(6)}
    save_file(weights, folder / "sae_weights.safetensors")
    save_file({"sparsity": random(24)}, folder / "sparsity.safetensors")
    config = {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "d_in": 6, "d_sae": 24}
    (folder / "cfg.json").write_text(json.dumps({**config, "dtype": "torch.float32", "device": "cpu"}))
    return weights


def test_an_entry_in_an_old_layout_is_read_as_saelens_reads_it(cache: Path, tmp_path: Path) -> None:
    w = publish_old(cache)
    job = import_of(OLD, tmp_path / "out")
    assert (job.config.repository.commit, job.config.release.entry) == (COMMIT, "blocks.8.hook_resid_pre")
    made, x = made_of(job), random(16, 6)
    codes = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    assert (made.config.geometry.kind, made.config.act_fn.kind) == ("sae", "relu")
    np.testing.assert_allclose(made.encode(torch.from_numpy(x)).numpy(), codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made(torch.from_numpy(x)).numpy(), codes @ w["W_dec"] + w["b_dec"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_entry_in_the_layout_of_its_authors_is_converted_by_saelens(cache: Path, tmp_path: Path) -> None:
    d_in, d_sae = 2304, 4096
    folder = publish(cache, "google/gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6")
    weights = {
        "W_enc": random(d_in, d_sae),
        "b_enc": random(d_sae),
        "W_dec": random(d_sae, d_in),
        "b_dec": random(d_in),
    }
    np.savez(folder / "params.npz", threshold=np.abs(random(d_sae)) + 0.5, **weights)
    try:
        job = import_of(GEMMA, tmp_path / "out")
    except FolderError as error:
        pytest.fail(f"the table of the installed SAELens has no such entry any more: {error}")
    assert job.config.dictionary.act_fn.jumprelu_threshold == "direct"
    made, x = made_of(job), random(4, d_in)
    pre = x @ (weights["W_enc"] / np.sqrt(d_in)) + weights["b_enc"]  # so SAELens scales those of embeddings
    codes = pre * (pre > np.load(folder / "params.npz")["threshold"])
    assert 0 < (codes != 0).mean() < 1
    np.testing.assert_allclose(made.encode(torch.from_numpy(x)).numpy(), codes, rtol=1e-4, atol=1e-3)


def test_an_entry_that_moved_since_the_plan_is_refused(cache: Path, tmp_path: Path) -> None:
    publish_old(cache)
    job = import_of(OLD, tmp_path / "out")
    reference = cache / "models--jbloom--GPT2-Small-SAEs-Reformatted" / "refs" / "main"
    reference.write_text("f" * 40)
    with pytest.raises(ChangedSource, match=r"by now, and planned was 0123456789abcdef.* Plan again"):
        made_of(job)


def test_what_saelens_cannot_read_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    publish_old(cache)
    (config,) = cache.glob("*/snapshots/*/*/cfg.json")
    config.write_text("{")
    with pytest.raises(FolderError, match=r"SAELens cannot read gpt2-small-res-jb:blocks.8.hook_resid_pre: JSONDecode"):
        import_of(OLD, tmp_path / "out")


TRAINED: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [8, 24]},
    "abstopk": {"k": 4},
}
"""The training classes of SAELens, without matching pursuit, and what they must be told."""


@pytest.mark.parametrize("architecture", TRAINED)
def test_what_saelens_writes_after_training_is_described_and_computes_the_same(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class

    monkeypatch.chdir(tmp_path)
    sae, config = get_sae_training_class(architecture)
    trained: Any = sae(config(d_in=6, d_sae=24, **TRAINED[architecture]))
    for number, parameter in enumerate(trained.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    trained.cfg.metadata.model_name, trained.cfg.metadata.hook_name = "pythia-70m", "blocks.2.hook_resid_post"
    trained.save_inference_model(tmp_path / "theirs")
    theirs: Any = SAE.load_from_disk(tmp_path / "theirs").eval()
    job = import_of("theirs", tmp_path / "out")
    (job.folder / "source.json").write_text(json.dumps({"folder": str(tmp_path / "theirs")}))
    made, x = made_of(job), torch.randn(32, 6, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        assert 0 < (theirs.encode(x) != 0).float().mean() < 1
        torch.testing.assert_close(made.encode(x), theirs.encode(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(made(x), theirs(x), rtol=1e-5, atol=1e-5)
