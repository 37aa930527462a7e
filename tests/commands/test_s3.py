"""upload and download with a real S3 server on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.miniature import Said, keys, manifests

pytestmark = [pytest.mark.apart("s3fs", "moto"), pytest.mark.slow]
Lmsae = Callable[..., Said]
SECRET = "sesame-open"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """A server with one bucket. fsspec remembers the connection of a process, so all tests have the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    running = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "anna")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            while not answers(endpoint):
                assert running.poll() is None
                time.sleep(0.1)
            import s3fs  # pyright: ignore[reportMissingImports]

            s3fs.S3FileSystem().mkdir("bucket")
            yield
        finally:
            running.terminate()
            running.wait()


def answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1)
    except OSError:
        return False
    return True


@pytest.fixture
def bucket(server: None, tmp_path: Path) -> str:
    """The URL of an empty depot in the bucket."""
    return f"s3://bucket/{tmp_path.name}"


def test_artifacts_go_to_s3_and_come_back_the_same(made: Path, pristine: Path, bucket: str, lmsae: Lmsae) -> None:
    before = manifests(made)
    lmsae("plan")
    assert f"{len(before)} sent" in lmsae("upload", bucket).out
    assert f"{len(before)} there already" in lmsae("upload", bucket).out
    beside = made.parent / "beside"
    shutil.copytree(pristine, beside)
    assert f"{len(before)} fetched" in lmsae("download", bucket, "--folder", str(beside)).out
    assert manifests(beside) == before
    assert lmsae("run", "--folder", str(beside)).err.count(" 0 made") == 9
    files = [path for root in (made, beside) for path in root.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_killed_upload_leaves_nothing_that_looks_whole(made: Path, bucket: str, lmsae: Lmsae) -> None:
    import s3fs  # pyright: ignore[reportMissingImports]

    lmsae("plan")
    for seconds in (1.5, 2.0, 2.5, 3.0, 4.0):
        process = subprocess.Popen([sys.executable, "-m", "lmsae.cli", "upload", bucket], env={**os.environ})
        time.sleep(seconds)
        process.kill()
        process.wait()
        files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        for account in files.glob(f"{bucket}/*/*/artifact.json"):
            reference = "/".join(account.split("/")[-3:-1])
            there = {Path(one).name for one in files.find(account.rpartition("/")[0])}
            assert len(there) == len(set(digests(made, reference))) + 1
    assert lmsae("upload", bucket).code == 0
    assert "0 sent" in lmsae("upload", bucket).out


def digests(folder: Path, reference: str) -> list[str]:
    from lmsae.artifacts.artifact import Artifacts

    return [entry["blake3"] for entry in Artifacts(folder / "artifacts")[reference].manifest()["files"]]


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_are_told(made: Path, bucket: str, lmsae: Lmsae) -> None:
    lmsae("plan")
    key = keys(made, "train")[0]
    said = lmsae("upload", "s3://nobody/depot", key)
    assert said.code == 2
    assert "mend the spelling, or make the bucket" in said.err
    gone = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lmsae.cli", "upload", bucket, key], env=gone, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"lmsae upload: {bucket}/train/{key}: EndpointConnectionError" in done.stderr
    assert "Run it again: what has arrived is kept." in done.stderr
    assert "Traceback" not in done.stderr
