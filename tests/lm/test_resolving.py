import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from lmsae.errors import SourceError
from lmsae.lm import load, load_tokenizer, resolving
from lmsae.lm.resolving import ResolvedModel, read_config, resolve, weights_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def local(model_folder, tmp_path) -> Path:
    """A folder of one's own with a tiny model in it."""
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))


def test_a_local_folder_is_named_by_a_digest_that_sha256sum_proves(local):
    (local / "README.md").write_text("a model card")
    (local / "checkpoint-10").mkdir()
    (local / "checkpoint-10" / "optimizer.pt").write_text("moments")
    files = "config.json generation_config.json model.safetensors"
    assert set(files.split()) < {path.name for path in local.iterdir()}
    printed = subprocess.check_output(f"sha256sum {files} | sha256sum", shell=True, cwd=local, text=True)
    assert resolve(str(local)) == ResolvedModel(name=str(local), revision=f"digest:{printed[:16]}")


def test_other_weights_in_the_same_folder_are_another_revision(local):
    before = resolve(str(local))
    weights = bytearray((local / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (local / "model.safetensors").write_bytes(weights)
    assert resolve(str(local)).revision != before.revision
    with pytest.raises(SourceError, match=before.revision):
        resolve(str(local), before.revision)


def test_each_file_is_digested_by_the_function_given(local):
    seen = []

    def digest(path):
        seen.append(path.name)
        return resolving.sha256_of_file(path)

    assert resolve(str(local), digest_of_file=digest) == resolve(str(local))
    assert seen == ["config.json", "generation_config.json", "model.safetensors"]


def test_a_local_model_is_read_where_it_lies(local):
    model = resolve(str(local))
    assert weights_folder(model) == local
    assert read_config(model)["model_type"] == "llama"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"no config\.json"):
        resolve(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused_without_asking_the_hub(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        resolve(str(tmp_path / "pythia"))
    with pytest.raises(SourceError, match="owner/name"):
        resolve("./pythia")


def test_an_unknown_builtin_is_met_with_the_ones_there_are():
    with pytest.raises(SourceError, match="did you mean builtin:stdlib-4m"):
        resolve("builtin:stdlib4m")


def test_pickled_weights_are_refused(local):
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"only pickled ones \(pytorch_model\.bin\)"):
        weights_folder(resolve(str(local)))


def test_a_missing_shard_is_noticed_before_loading(local):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (local / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="found none"):
        weights_folder(resolve(str(local)))


@pytest.mark.parametrize("content", ["{", "[" * 100_000 + "]" * 100_000], ids=["cut off", "nested deeply"])
def test_a_damaged_config_is_named(local, content):
    (local / "config.json").write_text(content)
    with pytest.raises(SourceError, match=r"config\.json is not readable as JSON"):
        read_config(resolve(str(local)))


def test_the_tokenizer_is_the_one_in_the_folder(local):
    words = {"a": 0, "b": 1}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="a"))).save_pretrained(local)
    assert load_tokenizer(resolve(str(local))).get_vocab() == words


def test_a_model_without_a_tokenizer_is_refused(local):
    with pytest.raises(SourceError, match="no tokenizer"):
        load_tokenizer(resolve(str(local)))


@pytest.mark.parametrize("use", [weights_folder, load_tokenizer])
def test_a_model_that_changed_since_it_was_resolved_is_refused(local, use):
    planned = resolve(str(local))
    (local / "tokenizer_config.json").write_text("{}")
    with pytest.raises(SourceError, match="not those that were planned"):
        use(planned)


def test_a_tokenizer_is_not_made_up(local):
    config = json.loads((local / "config.json").read_text())
    (local / "config.json").write_text(json.dumps(config | {"model_type": "gpt_neox"}))
    with pytest.raises(SourceError, match=r"no tokenizer.*save_pretrained"):
        load_tokenizer(resolve(str(local)))


def test_damaged_weights_are_named(local):
    weights = local / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"weights in .* are damaged"):
        load(resolve(str(local)), backend="huggingface", dtype="float32", device="cpu")


class Hub(ThreadingHTTPServer):
    """A model hub with one repository, tiny/llama, whose main branch is COMMIT."""

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.downloads: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api, files = "/api/models/tiny/llama", f"/tiny/llama/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": file.name} for file in self.hub.files.iterdir()]
            self._json({"id": "tiny/llama", "sha": COMMIT, "siblings": siblings})
        elif path == f"{api}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _sha1(file)}
                for file in self.hub.files.iterdir()
            ]
            self._json(entries)
        elif path.startswith(files):
            self._file(self.hub.files / path.removeprefix(files))
        else:
            missing = "RevisionNotFound" if path.startswith(api) else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": missing})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, file: Path) -> None:
        if self.command == "GET":
            self.hub.downloads.append(file.name)
        self._send(200, file.read_bytes(), {"ETag": f'"{_sha1(file)}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _sha1(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(local):
    (local / "pytorch_model.bin").write_text("pickled")
    with Hub(local) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(tmp_path):
    """Runs Python in a process of its own, with a hub at that address and an empty cache; gives what it prints."""

    def run(url: str, code: str) -> str:
        env = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        code = (
            "from lmsae.errors import SourceError\nfrom lmsae.lm.resolving import *\n"
            f"try:\n    print({code})\nexcept SourceError as error:\n    print('SourceError', error)"
        )
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    return run


def test_a_hub_model_is_named_by_its_commit_and_only_what_is_needed_is_downloaded(hub, client):
    assert client(hub.url, "resolve('tiny/llama')") == f"name='tiny/llama' revision='{COMMIT}'\n"
    assert hub.downloads == []
    assert client(hub.url, "read_config(resolve('tiny/llama'))['model_type']") == "llama\n"
    assert hub.downloads == ["config.json"]
    found = Path(client(hub.url, "weights_folder(resolve('tiny/llama'))").strip())
    assert sorted(hub.downloads) == ["config.json", "generation_config.json", "model.safetensors"]
    assert (found / "model.safetensors").read_bytes() == (hub.files / "model.safetensors").read_bytes()


def test_a_repository_or_revision_that_the_hub_has_not_is_refused(hub, client):
    assert "mend the spelling" in client(hub.url, "resolve('tiny/lama')")
    assert "has no revision 'v2'" in client(hub.url, "resolve('tiny/llama', 'v2')")


def test_without_network_what_is_cached_is_used_under_its_commit(hub, client):
    online = client(hub.url, "weights_folder(resolve('tiny/llama'))")
    nowhere = "http://127.0.0.1:9"
    assert client(nowhere, "weights_folder(resolve('tiny/llama'))") == online
    assert client(nowhere, f"resolve('tiny/llama', '{COMMIT}').revision").strip() == COMMIT


@pytest.mark.parametrize("unreachable", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_network_or_cache_the_answer_comes_within_seconds_and_says_what_was_tried(client, unreachable):
    start = time.monotonic()
    said = client(unreachable, "resolve('tiny/llama')")
    assert said.startswith("SourceError model tiny/llama cannot be had. Tried: a local folder")
    assert unreachable in said
    assert "HF_HOME" in said
    said = client(unreachable, f"weights_folder(ResolvedModel(name='tiny/llama', revision='{COMMIT}'))")
    assert COMMIT in said
    assert time.monotonic() - start < 20
