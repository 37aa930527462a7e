"""The hub's code path: the real client and library against a hub of two documents that this test serves itself."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = "a1b2c3d4" * 5
FILES = {"README.md": b"---\nlicense: mit\n---\n", "train-0.jsonl": b'{"text": "one"}\n{"text": "two"}\n'}
API = "/api/datasets/owner/name"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that reading one dataset takes."""

    protocol_version = "HTTP/1.1"

    def reply(self, content: bytes | list | dict | None, missing: str = "EntryNotFound", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(404 if content is None else 200)
        headers |= {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}
        headers |= {"X-Error-Code": missing} if content is None else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in (API, f"{API}/revision/{COMMIT}"):
            return self.reply({"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
        if path.startswith(f"{API}/revision/"):
            return self.reply(None, "RevisionNotFound")
        if path == f"{API}/tree/{COMMIT}":
            return self.reply([{"type": "file", "path": n, "size": len(FILES[n]), "oid": "0" * 40} for n in FILES])
        if "/resolve/" in path:
            content = FILES.get(path.split(f"/resolve/{COMMIT}/")[-1])
            return self.reply(content, ETag=f'"{hashlib.sha1(content or b"").hexdigest()}"')
        return self.reply(None, "EntryNotFound" if path.startswith(API) else "RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(home: Path, code: str, **environment: str) -> list:
    """What `code` found in a fresh Python: these libraries read their environment when they are imported."""
    program = f"""
import json, warnings
from lmsae.errors import SourceError
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.pinning import documents, resolve
warnings.simplefilter("error")
found = []
def attempt(make):
    try:
        made = make()
        found.append([made.digest, [document.text for document in documents(made)]])
    except SourceError as error:
        found.append(str(error))
{code}
print(json.dumps(found))
"""
    variables = {**os.environ, "HF_HOME": str(home), **environment}
    result = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "%|" not in result.stderr, "a progress bar was shown"
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_hub_dataset_is_pinned_to_its_commit_and_read_and_later_found_in_the_cache(hub: str, tmp_path: Path) -> None:
    online = read(
        tmp_path,
        """
attempt(lambda: resolve(DatasetConfig(name="owner/name", streaming=True)))
attempt(lambda: resolve(DatasetConfig(name="owner/name")))
attempt(lambda: resolve(DatasetConfig(name="owner/name", revision="v9")))
attempt(lambda: resolve(DatasetConfig(name="owner/other")))
""",
        HF_ENDPOINT=hub,
        HF_HUB_OFFLINE="0",
    )
    assert online[:2] == [[COMMIT, ["one", "two"]]] * 2
    assert "no revision 'v9'" in online[2]
    assert "neither a local file or folder nor a dataset on the hub" in online[3]

    offline = read(
        tmp_path,
        """
attempt(lambda: resolve(DatasetConfig(name="owner/name")))
attempt(lambda: ResolvedDataset(name="owner/name", digest="b" * 40))
""",
        HF_HUB_OFFLINE="1",
    )
    assert offline[0] == [COMMIT, ["one", "two"]]
    assert f"commit {'b' * 40} cannot be reached, the cache holds {COMMIT}" in offline[1]
