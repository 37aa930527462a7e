"""upload and download: artifacts to and from a folder at a URL, only what is missing, and never half."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.registry import known_implementations

from lmsae.artifacts import depot
from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.artifacts.depot import ACCOUNT, DOWNLOAD, Depot
from lmsae.errors import DamagedArtifact, DepotError, MissingPackage
from lmsae.runtime.remote_folder import RemoteFolder, redact
from tests.flaky_files import LINE
from tests.miniature import Said, keys, manifests

Lmsae = Callable[..., Said]
TRAIN = ["--stage", "train"]


@pytest.fixture(autouse=True)
def line() -> Iterator[None]:
    LINE.restore()
    yield
    LINE.restore()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A depot on this disk, behind a line that may break."""
    return f"flaky://anna:s3cr%2Ft@host{tmp_path}/depot"


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "depot"


@pytest.fixture
def sender(finished: Path) -> Artifacts:
    return Artifacts(finished / "artifacts")


def trained(artifacts: Artifacts) -> list[str]:
    return [one.reference for one in artifacts if one.reference.startswith("train/")]


def spoil(file: Path) -> None:
    """Change the last byte of a file."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_what_is_uploaded_and_downloaded_is_made(made: Path, fresh_beside: Path, lmsae: Lmsae, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/depot"
    before = manifests(made)
    said = lmsae("upload", url)
    assert said.code == 0
    assert f"{len(before)} sent" in said.out
    assert f"0 sent, 0 bytes, {len(before)} there already" in lmsae("upload", url).out
    there = ["--folder", str(fresh_beside)]
    said = lmsae("download", url, *there)
    assert said.code == 0
    assert f"{len(before)} fetched" in said.out
    assert manifests(fresh_beside) == before
    assert f"0 fetched, 0 bytes, {len(before)} here already" in lmsae("download", url, *there).out
    assert lmsae("verify", *there).code == 0
    assert lmsae("run", *there).err.count(" 0 made") == 9


@pytest.fixture
def fresh_beside(pristine: Path, tmp_path: Path) -> Path:
    """Another project with the same sweep, of which nothing is made."""
    shutil.copytree(pristine, tmp_path / "beside")
    return tmp_path / "beside"


def test_a_folder_with_nothing_in_it_is_perhaps_another_than_was_meant(fresh: Path, lmsae: Lmsae) -> None:
    said = lmsae("download", "memory://mistyped")
    assert said.code == 2
    assert "there is nothing at memory://mistyped: mend the spelling" in said.err


def test_an_account_that_is_no_json_is_told_without_a_place_in_it(tmp_path: Path) -> None:
    (tmp_path / "eval/0123").mkdir(parents=True)
    (tmp_path / "eval/0123" / ACCOUNT).write_text("no")
    with pytest.raises(DamagedArtifact, match=rf"/{ACCOUNT}: Invalid JSON"):
        Depot(RemoteFolder(f"file://{tmp_path}")).account("eval/0123")


def test_a_row_a_key_and_a_stage_can_be_named(made: Path, fresh_beside: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    url, first = "memory://named", keys(made, "train")[0]
    assert "1 sent" in lmsae("upload", url, first).out
    assert "would send eval/" in lmsae("upload", url, "top", "--stage", "eval", "--dry-run").out
    assert "1 sent" in lmsae("upload", url, "top", "--stage", "eval").out
    there = ["--folder", str(fresh_beside)]
    said = lmsae("download", url, "top", *there)
    assert "2 fetched" in said.out
    assert "that memory://named does not have" in said.out
    assert {one.partition("/")[0] for one in manifests(fresh_beside)} == {"train", "eval"}
    (fresh_beside / "config/sweep.tsv").write_text("nonsense")
    shutil.rmtree(fresh_beside / "artifacts/train" / first)
    assert "1 fetched" in lmsae("download", url, f"train/{first[:6]}", *there).out
    assert lmsae("download", url, "0123", *there).code == 2


def test_a_lost_connection_leaves_nothing_that_looks_whole_and_the_rest_is_sent_later(
    made: Path, url: str, at: Path, lmsae: Lmsae
) -> None:
    lmsae("plan")
    LINE.sends_left = 2
    said = lmsae("upload", url, keys(made, "train")[0])
    assert said.code == 2
    folder = at / "train" / keys(made, "train")[0]
    assert not (folder / ACCOUNT).exists()
    first = {path.name for path in folder.iterdir() if not path.name.endswith(".part")}
    assert len(first) == 2
    LINE.restore()
    assert lmsae("upload", url, keys(made, "train")[0]).code == 0
    files = {path.name for path in folder.iterdir() if not path.name.endswith(".part")} - {ACCOUNT}
    assert {Path(one).name.partition(".")[0] for one in LINE.sent} == files - first


def test_a_download_goes_on_where_the_connection_was_lost(
    sender: Artifacts, url: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot, "BLOCK", 1000)
    there, here = Depot(RemoteFolder(url)), Artifacts(fresh / "artifacts")
    (reference, *_) = trained(sender)
    there.send(sender[reference])
    account = there.account(reference)
    assert account
    LINE.reads_left = 5
    with pytest.raises(DepotError, match="what has arrived is kept"):
        there.fetch(account, here, wait=False)
    assert not here[reference].is_finished
    assert list((here[reference].path / DOWNLOAD).iterdir())
    assert LINE.read_bytes < account.nbytes
    LINE.reads_left = 10**9
    there.fetch(account, here, wait=False)
    assert LINE.read_bytes == sum({file.blake3: file.bytes for file in account.files}.values())
    assert here[reference].manifest() == sender[reference].manifest()
    assert not here[reference].damaged_files()
    assert not (here[reference].path / DOWNLOAD).exists()


def test_what_an_interrupted_download_left_damaged_is_fetched_anew(sender: Artifacts, url: str, fresh: Path) -> None:
    there, here = Depot(RemoteFolder(url)), Artifacts(fresh / "artifacts")
    (reference, *_) = trained(sender)
    there.send(sender[reference])
    account = there.account(reference)
    assert account
    large = max(account.files, key=lambda file: file.bytes)
    staging = here.add(account.spec).path / DOWNLOAD
    staging.mkdir()
    (staging / f"{large.blake3}.part").write_bytes(b"not what was sent")
    there.fetch(account, here, wait=False)
    assert here[reference].manifest() == sender[reference].manifest()


def test_a_damaged_object_is_refused_by_name_and_costs_no_other_artifact(
    made: Path, fresh_beside: Path, at: Path, url: str, lmsae: Lmsae
) -> None:
    lmsae("plan")
    lmsae("upload", url, *TRAIN)
    first = at / "train" / keys(made, "train")[0]
    victim = max((path for path in first.iterdir() if path.name != ACCOUNT), key=lambda path: path.stat().st_size)
    spoil(victim)
    said = lmsae("download", url, *TRAIN, "--folder", str(fresh_beside))
    assert said.code == 2
    assert f"/train/{first.name}/{victim.name}: dictionary.safetensors of train/{first.name} is not what" in said.err
    assert "3 fetched" in said.out
    assert set(manifests(fresh_beside)) == {f"train/{key}" for key in keys(made, "train")[1:]}
    victim.unlink()
    assert "1 sent" in lmsae("upload", url, *TRAIN).out, "an artifact that lacks a file is sent again"
    assert lmsae("download", url, *TRAIN, "--folder", str(fresh_beside)).code == 0
    assert len(manifests(fresh_beside)) == 4


def test_a_file_that_is_damaged_here_is_not_sent(made: Path, url: str, at: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    file = made / "artifacts/train" / keys(made, "train")[0] / "dictionary.safetensors"
    spoil(file)
    said = lmsae("upload", url, *TRAIN)
    assert said.code == 2
    assert f"{file.relative_to(made)}: its bytes are not those that were written" in said.err
    assert "3 sent" in said.out
    assert not (at / "train" / file.parent.name / ACCOUNT).exists()


def test_two_uploads_at_once_of_other_bytes_leave_one_of_them_whole(
    sender: Artifacts, url: str, at: Path, tmp_path: Path
) -> None:
    (reference, *_) = trained(sender)
    others = []
    for number in range(2):
        folder = tmp_path / f"machine{number}"
        shutil.copytree(sender[reference].path, folder / reference)
        own = Artifacts(folder)[reference]
        (own.path / "curves.csv").write_text(f"numbers of machine {number}\n" * 1000)
        own.publish({})
        others.append(own)
    for _ in range(5):
        shutil.rmtree(at, ignore_errors=True)
        start = threading.Barrier(2)

        def send(own: object, start: threading.Barrier = start) -> None:
            start.wait()
            Depot(RemoteFolder(url)).send(own)  # pyright: ignore[reportArgumentType]

        threads = [threading.Thread(target=send, args=[own]) for own in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        here = Artifacts(tmp_path / "here")
        there = Depot(RemoteFolder(url))
        account = there.account(reference)
        assert account
        there.fetch(account, here, wait=False)
        assert here[reference].manifest() in [own.manifest() for own in others]
        assert not here[reference].damaged_files()
        here[reference].remove()


def test_a_password_is_told_nowhere(made: Path, fresh_beside: Path, url: str, at: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    LINE.sends_left = 0
    failed = lmsae("upload", url, *TRAIN)
    assert (failed.code, "lost flaky://***@host" in failed.err) == (2, True)
    LINE.restore()
    said = [failed, lmsae("upload", url, *TRAIN), lmsae("download", url, "--folder", str(fresh_beside))]
    (at / "train").rename(at / "elsewhere")
    said.append(lmsae("download", url, "0123", "--folder", str(fresh_beside)))
    secrets = ("s3cr/t", "s3cr%2Ft", "anna:")
    assert not [one for answer in said for one in secrets if one in answer.out + answer.err]
    files = [path for root in (made, fresh_beside, at) for path in root.rglob("*") if path.is_file()]
    assert not [path for path in files for one in secrets if one.encode() in path.read_bytes()]
    run = next((fresh_beside / "artifacts/train").glob("*/run.json"))
    assert json.loads(run.read_text())["downloaded_from"].startswith("flaky://***@host/")


def test_urls_are_told_without_passwords_and_signatures() -> None:
    assert redact("at ftp://me:p@ss/w@host/a, s3://bucket/b") == "at ftp://***@host/a, s3://bucket/b"
    assert redact("https://x.blob/c?sv=1&sig=abc failed") == "https://x.blob/c?*** failed"


BAD = {
    "path": lambda account: account["files"][0].update(path="../../../outside"),
    "claim": lambda account: account["files"][0].update(path=".claim"),
    "manifest": lambda account: account["files"][0].update(path="manifest.json"),
    "digest": lambda account: account["files"][0].update(blake3="../../other"),
    "spec": lambda account: account["spec"]["config"].update(seed=7),
    "version": lambda account: account.update(version=2),
}


@pytest.mark.parametrize("what", BAD)
def test_an_account_that_lies_is_damage_and_nothing_is_written(
    sender: Artifacts, url: str, at: Path, tmp_path: Path, what: str
) -> None:
    (reference, *_) = trained(sender)
    there = Depot(RemoteFolder(url))
    there.send(sender[reference])
    file = at / reference / ACCOUNT
    account = json.loads(file.read_text())
    BAD[what](account)
    file.write_text(json.dumps(account))
    with pytest.raises(DamagedArtifact, match=ACCOUNT):
        there.account(reference)


def test_an_artifact_that_somebody_makes_is_not_downloaded(
    made: Path, fresh_beside: Path, lmsae: Lmsae, url: str
) -> None:
    lmsae("plan")
    lmsae("upload", url, "top", *TRAIN)
    lmsae("plan", "--folder", str(fresh_beside))
    begun = Artifacts(fresh_beside / "artifacts").begin(f"train/{keys(made, 'train')[0]}")
    with hold_claim(begun.path):
        said = lmsae("download", url, "top", *TRAIN, "--folder", str(fresh_beside))
    assert said.code == 75
    assert "is being made by" in said.err


def test_a_url_that_is_none_and_a_protocol_that_is_not_installed_are_told(
    sender: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DepotError, match="'depot' is no URL"):
        RemoteFolder("depot")
    with pytest.raises(DepotError, match="nonsense"):
        RemoteFolder("nonsense://x")
    monkeypatch.setitem(known_implementations, "s3", {"class": "no_such_s3fs.S3FileSystem"})
    with pytest.raises(MissingPackage, match="pip install s3fs"):
        RemoteFolder("s3://bucket/x")
    assert trained(sender)
