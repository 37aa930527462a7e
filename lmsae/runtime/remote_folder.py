"""A folder at a URL of any protocol that fsspec knows. What is told of it shows no password and no signature."""

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lmsae.errors import DepotError, LmsaeError, MissingPackage

_PUT_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "obs", "cos", "r2", "hf"})
"""Protocols of object stores: a file there appears when all of it has arrived, and folders need not be made."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_KEPT = "Run it again: what has arrived is kept"


def redact(text: str) -> str:
    """A text without what stands between `://` and `@` in URLs, and without their queries, which may be signatures.

    A password may be written with any sign, so everything up to the last `@` goes."""
    text = re.sub(r"(\w://)[^\s'\"]*@", r"\1***@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1?***", text)


class RemoteFolder:
    """A folder at a URL. Paths are relative to it, with forward slashes. Every method may raise DepotError."""

    def __init__(self, url: str) -> None:
        """Raises DepotError if the URL is none, or of an unknown protocol, and MissingPackage if fsspec needs another
        package for it."""
        import fsspec

        self.shown = redact(url.rstrip("/"))
        """The URL as it may be told."""
        self._secrets = _secrets_of(url)
        self._protocol = url.partition("://")[0].split("::")[0]
        if "://" not in url:
            raise DepotError(f"{self.shown!r} is no URL; wanted one such as s3://bucket/folder or file:///disk/folder.")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            package = _PACKAGES.get(self._protocol)
            mend = f"`pip install {package}`" if package else self._tell(error)
            raise MissingPackage(f"{self.shown}: fsspec needs another package for {self._protocol}: {mend}") from None
        except Exception as error:
            raise DepotError(f"{self.shown}: it cannot be opened ({self._tell(error)}).") from None

    def sizes(self, folder: str) -> dict[str, int]:
        """The bytes of each file directly in a folder, by name; none if there is no such folder."""
        with self._explained(folder):
            self._fs.invalidate_cache()  # others write there
            try:
                found: list[dict[str, Any]] = self._fs.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
            return {one["name"].rpartition("/")[2]: int(one["size"]) for one in found if one["type"] == "file"}

    def names(self, pattern: str) -> list[str]:
        """The paths that a glob pattern finds."""
        with self._explained(pattern):
            self._fs.invalidate_cache()
            root = self._root.rstrip("/") + "/"
            return sorted(one[one.index(root) + len(root) :] for one in self._fs.glob(self._at(pattern)))

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`. Raises FileNotFoundError if there is none."""
        with self._explained(path):
            return self._fs.cat_file(self._at(path), start=start, end=end)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, which is seen whole or not at all."""
        with self._explained(path), self._appearing(path) as target:
            self._fs.pipe_file(target, content)

    def send(self, file: Path, path: str) -> None:
        """Send a file, which is seen whole or not at all."""
        with self._explained(path), self._appearing(path) as target:
            self._fs.put_file(str(file), target)

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    @contextlib.contextmanager
    def _appearing(self, path: str) -> Iterator[str]:
        """The path to write to, in the end moved to its place unless the protocol itself writes so."""
        target = self._at(path)
        try:
            if self._protocol in _PUT_WHOLE:
                yield target
                return
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            draft = f"{target}.{uuid.uuid4().hex}.part"
            yield draft
            self._fs.mv(draft, target)
        except FileNotFoundError as error:
            mend = "mend the spelling, or make the bucket or folder"
            raise DepotError(f"{self.shown}: it cannot be written to ({self._tell(error)}); {mend}.") from None

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """While this is entered, any failure of the protocol's client becomes a DepotError without secrets."""
        try:
            yield
        except (LmsaeError, FileNotFoundError):
            raise
        except Exception as error:
            told = f"{self.shown}/{path}: {self._tell(error)}"
            if isinstance(error, PermissionError) or "credential" in str(error).lower():
                mend = "Give your credentials as the client of this protocol wants them (its files, the environment)"
                raise DepotError(f"{told}. {mend}, and run it again.") from None
            raise DepotError(f"{told}. {_KEPT}.") from None

    def _tell(self, error: Exception) -> str:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return f"{type(error).__name__}: {redact(said)}"


def _secrets_of(url: str) -> list[str]:
    """The user's part and the query of a URL, as they are written and as clients decode them; the longest first."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        written = [user if ":" in user else None, parts.password, parts.query]
        found = {form for one in written if one for form in (one, unquote(one))}
        return sorted(found, key=len, reverse=True)
    return []
