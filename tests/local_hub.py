"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that its own client talks to.

Repositories of models with branches, commits, large files sent apart from commits, private repositories, tokens, pages
of long listings, and errors on demand. The client is the real one.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.local_server import Handler, start_server

PAGE = 20
"""Files in one answer of a listing."""


@dataclass
class Repository:
    """The files of each commit, and the commit of each branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {".gitattributes": b"lfs\n"}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """The state of a hub. `writers` has the owners that a token may write for; a token that is not there is unknown."""

    url: str = ""
    writers: dict[str, set[str]] = field(default_factory=lambda: {"hf_writes": {"me"}, "hf_reads": set()})
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """The requests, as `METHOD path`."""
    errors: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    """Answers for the next requests that match a pattern: the pattern, the status, and headers."""
    arrived: list[str] = field(default_factory=list)
    """Digests of the large files that were sent, in their order."""

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, one) is not None for one in self.asked)


@contextmanager
def start_hub() -> Iterator[Hub]:
    hub = Hub()

    class Answering(_Handler):
        state = hub

    with start_server(Answering) as hub.url:
        yield hub


def turn_client_to(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client in this process talk to a hub, with a cache of its own."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)


class _Refused(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): text for name, text in headers.items()}


class _Handler(Handler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.read_body()
        self.address = urlsplit(self.path)
        asked = f"{self.command} {unquote(self.address.path)}"
        self.state.asked.append(asked)
        for number, (pattern, status, headers) in enumerate(self.state.errors):
            if re.search(pattern, asked):
                del self.state.errors[number]
                return self.send(status, b'{"error": "asked for"}', headers)
        try:
            for pattern, answer in _ROUTES:
                if match := re.fullmatch(pattern, asked):
                    return answer(self, body, *match.groups())
            raise _Refused(404, X_Error_Code="EntryNotFound")
        except _Refused as refused:
            self.send(refused.status, b'{"error": "no"}', refused.headers)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _owners(self) -> set[str]:
        """The owners that the caller may write for."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return set()
        if token not in self.state.writers:
            raise _Refused(401, X_Error_Message="Invalid credentials in Authorization header")
        return self.state.writers[token]

    def _repository(self, name: str, *, to_write: bool = False) -> Repository:
        owners, found = self._owners(), self.state.repositories.get(name)
        if found is None or (found.private and name.partition("/")[0] not in owners):
            raise _Refused(404 if self.headers.get("Authorization") else 401, X_Error_Code="RepoNotFound")
        if to_write and name.partition("/")[0] not in owners:
            raise _Refused(403, X_Error_Message="you may not write here")
        return found

    def _commit(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(name)
        commit = repository.at(revision or "main")
        if commit is None:
            raise _Refused(404, X_Error_Code="RevisionNotFound")
        return commit, repository.commits[commit]

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name.partition("/")[0] not in self._owners():
            raise _Refused(403, X_Error_Message="no rights in this namespace")
        url = {"url": f"{self.state.url}/{name}"}
        if name in self.state.repositories:
            return self._json(url, 409)
        self.state.repositories[name] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        self._json(url)

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        commit, _ = self._commit(name, revision)
        self._json({"id": name, "sha": commit, "private": self.state.repositories[name].private})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self._repository(name, to_write=True)
        if branch in repository.branches:
            return self._json({}, 409)
        repository.branches[branch] = repository.branches["main"]
        self._json({})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        _, files = self._commit(name, revision)
        begin = int(parse_qs(self.address.query).get("cursor", ["0"])[0])
        paths, listed = sorted(files), []
        for path in paths[begin : begin + PAGE]:
            content, large = files[path], {}
            if is_large(path):
                large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}}
            listed.append({"type": "file", "path": path, "size": len(content), "oid": git_digest(content), **large})
        more = {}
        if begin + PAGE < len(paths):
            again = f"{self.state.url}{self.address.path}?recursive=True&cursor={begin + PAGE}"
            more = {"Link": f'<{again}>; rel="next"'}
        self._json(listed, 200, **more)

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self._repository(name, to_write=True)
        asked = [one["path"] for one in json.loads(body)["files"]]
        kinds = [{"path": path, "uploadMode": "lfs" if is_large(path) else "regular"} for path in asked]
        self._json({"files": [{**kind, "shouldIgnore": False, "oid": None} for kind in kinds]})

    def batch(self, body: bytes, name: str) -> None:
        self._repository(name, to_write=True)
        found = []
        for one in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.state.url}/large/{one['oid']}"}}
            found.append(one if one["oid"] in self.state.large else {**one, "actions": actions})
        self._json({"transfer": "basic", "objects": found})

    def put(self, body: bytes, digest: str) -> None:
        assert hashlib.sha256(body).hexdigest() == digest
        self.state.large[digest] = body
        self.state.arrived.append(digest)
        self._json({})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self._repository(name, to_write=True)
        before, files = self._commit(name, revision)
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.state.large[value["oid"]]
        commit = hashlib.sha1(before.encode() + body).hexdigest()
        repository.commits[commit] = files
        repository.branches[revision] = commit
        self._json({"commitUrl": f"{self.state.url}/{name}/commit/{commit}", "commitOid": commit})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        commit, files = self._commit(name, revision)
        if path not in files:
            raise _Refused(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_digest(content)}"'}
        if is_large(path):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            elsewhere = self.state.url.replace("127.0.0.1", "localhost")  # the hub has large files on other hosts, too
            return self.send(302, b"", {**headers, "Location": f"{elsewhere}/large/{digest}"})
        self.send(200, content, headers)

    def get(self, body: bytes, digest: str) -> None:
        self.send(200, self.state.large[digest], {})

    def validate(self, body: bytes) -> None:
        self._owners()
        self._json({"errors": [], "warnings": []})


_REPO, _REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"GET /api/models/{_REPO}(?:/revision/{_REVISION})?", _Handler.info),
    (f"POST /api/models/{_REPO}/branch/{_REVISION}", _Handler.branch),
    (f"GET /api/models/{_REPO}/tree/{_REVISION}", _Handler.tree),
    (f"POST /api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (f"POST /api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    (f"POST /{_REPO}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /large/([0-9a-f]{64})", _Handler.put),
    ("(?:GET|HEAD) /large/([0-9a-f]{64})", _Handler.get),
    (f"(?:GET|HEAD) /{_REPO}/resolve/{_REVISION}/(.+)", _Handler.resolve),
]
