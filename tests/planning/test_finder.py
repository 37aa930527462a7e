"""The name of a finished dictionary is what it is at this moment: a folder, a place on the hub, a key, a release."""

import shutil
from pathlib import Path

import pytest
import torch

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.digests import DigestCache
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError
from lmsae.interop import located
from lmsae.interop.finished import Finished, Release, Repository
from lmsae.interop.loading import load
from lmsae.planning.finder import Finder
from lmsae.runtime import hub
from lmsae.runtime.runtime import Runtime
from lmsae.stages.imported import STAGE
from lmsae.stages.stage import Job
from tests.miniature import HERE, keys
from tests.planning.peer_folders import write_peer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def find(name: str, root: Path | str = "artifacts") -> Finished:
    artifacts = Artifacts(Path(root))
    return Finder(artifacts, DigestCache(artifacts.root)).find(name)


def test_the_same_files_are_the_same_content_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_peer(tmp_path / "one")
    shutil.copytree("one", "sub/two")
    assert find("one").content == find("sub/two").content
    assert find("sub/two").folder == Path("sub/two")
    write_peer(tmp_path / "three", k=5)
    assert find("one").content.digest != find("three").content.digest
    (tmp_path / "one" / "sparsity.safetensors").write_bytes(b"not read")
    assert find("one").content == find("sub/two").content


def test_a_key_is_a_dictionary_of_the_folder_of_artifacts_with_its_origin(finished: Path) -> None:
    key = keys(finished, "train")[0]
    for name in (key, key[:8], f"train/{key}", str(finished / "artifacts" / "train" / key)):
        found = find(name, finished / "artifacts")
        assert found.content.format == "lmsae"
        assert (found.origin.models, found.origin.reads, found.origin.writes) == (("model",), (HERE,), (HERE,))
        assert found.folder == finished / "artifacts" / "train" / key


def test_a_key_that_is_no_finished_dictionary_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no finished dictionary under"):
        find(keys(finished, "eval")[0], finished / "artifacts")
    with pytest.raises(FolderError, match="no finished dictionary under"):
        find("0123456789abcdef", tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub's client that holds one repository, tiny/saes, with a dictionary in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--tiny--saes"
    write_peer(repository / "snapshots" / COMMIT / "layer_0" / "topk")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(COMMIT)
    return tmp_path


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_a_place_on_the_hub_is_named_by_its_commit(cache: Path, revision: str) -> None:
    found = find(f"tiny/saes{revision}:layer_0/topk")
    assert found.content.repository == Repository(name="tiny/saes", commit=COMMIT, folder="layer_0/topk")
    assert found.content.digest is None
    assert found.folder is None
    assert found.origin.reads == (HERE,)
    assert (
        found.content.dictionary
        == find(str(cache / "cache/models--tiny--saes/snapshots" / COMMIT / "layer_0/topk")).content.dictionary
    )


def test_a_plan_needs_no_weights_of_a_place_on_the_hub(cache: Path) -> None:
    folder = cache / "cache" / "models--tiny--saes" / "snapshots" / COMMIT / "layer_0" / "topk"
    wanted = find("tiny/saes:layer_0/topk").content
    (folder / "sae_weights.safetensors").unlink()
    assert find("tiny/saes:layer_0/topk").content == wanted


def test_what_was_planned_on_the_hub_is_imported_from_the_cache_of_its_client(cache: Path, tmp_path: Path) -> None:
    found = find("tiny/saes:layer_0/topk")
    job = Job("import/mine", STAGE.config.model_validate(found.content.model_dump()), {}, tmp_path / "out")
    job.folder.mkdir()
    assert [ended for _, ended in STAGE.make([job], Runtime(device="cpu"))] == [{}]
    folder = cache / "cache" / "models--tiny--saes" / "snapshots" / COMMIT / "layer_0" / "topk"
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Dictionary.load(job.out)(x), load(folder)(x))
    (folder / "sae_weights.safetensors").unlink()
    ((_, ended),) = STAGE.make([job], Runtime(device="cpu"))
    assert isinstance(ended, FolderError)
    assert str(ended).startswith(f"tiny/saes at {COMMIT} cannot be had")


@pytest.mark.usefixtures("cache")
def test_what_the_hub_does_not_have_is_told_with_what_was_tried() -> None:
    with pytest.raises(FolderError, match=r"tiny/others cannot be had. Tried: a local folder"):
        find("tiny/others:layer_0")
    with pytest.raises(FolderError, match=r"holds no dictionary|cannot be had"):
        find("tiny/saes:layer_9")
    with pytest.raises(FolderError, match=r"'../../x' leads out of the repository"):
        find("tiny/saes:../../x")


def test_a_repository_that_the_hub_refuses_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: object, name: object, revision: object) -> str:
        raise hub.Refused("gated")

    monkeypatch.setattr(hub, "ask_commit", refuse)
    with pytest.raises(FolderError, match=r"tiny/saes: it is gated: ask for access"):
        find("tiny/saes")


@pytest.mark.slow
def test_a_release_is_a_place_on_the_hub_by_the_table_of_the_installed_saelens() -> None:
    release = Release(name="gpt2-small-res-jb", entry="blocks.8.hook_resid_pre")
    assert located.parse(str(release)) == located.OnHub(
        "jbloom/GPT2-Small-SAEs-Reformatted", None, "blocks.8.hook_resid_pre", release
    )
    with pytest.raises(FolderError, match=r"no release 'gpt2-small-res-jbb'; did you mean gpt2-small-res-jb"):
        located.parse("gpt2-small-res-jbb:blocks.8.hook_resid_pre")
    with pytest.raises(FolderError, match=r"has no 'blocks.8.hook_resid_pree'; did you mean blocks.8.hook_resid_pre"):
        located.parse("gpt2-small-res-jb:blocks.8.hook_resid_pree")


def test_without_saelens_its_releases_are_told_to_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(located, "find_spec", lambda name: None)
    with pytest.raises(FolderError, match="SAELens is not installed: `pip install sae-lens`"):
        located.parse("gpt2-small-res-jb:blocks.8.hook_resid_pre")


def test_a_description_is_remembered_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_peer(tmp_path / "one")
    artifacts = Artifacts(tmp_path / "artifacts")
    digests = DigestCache(artifacts.root)
    wanted = Finder(artifacts, digests).find("one")
    digests.save()

    def fail(folder: Path) -> None:
        raise AssertionError("it is described again")

    monkeypatch.setattr("lmsae.interop.loading.describe", fail)
    assert Finder(artifacts, DigestCache(artifacts.root)).find("one") == wanted
