"""Files behind a protocol `flaky://` of fsspec whose connection is lost when a test says so."""

import threading
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Line:
    """The connection: what has gone over it, and when it breaks."""

    def __init__(self) -> None:
        self.restore()

    def restore(self) -> None:
        self.sent: list[str] = []
        self.read_bytes = 0
        self.sends_left = self.reads_left = 10**9
        self.lock = threading.Lock()


LINE = Line()


class FlakyFiles(LocalFileSystem):
    """Local files at flaky://user:password@host/path."""

    protocol = "flaky"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = str(path)
        return path if "://" not in path else "/" + path.partition("://")[2].partition("/")[2].rstrip("/")

    def put_file(self, path1: Any, path2: Any, callback: Any = None, **kwargs: Any) -> None:
        with LINE.lock:
            LINE.sends_left -= 1
            if LINE.sends_left < 0:
                with open(path1, "rb") as source, open(path2, "wb") as target:
                    target.write(source.read(10))  # the line breaks after these
                raise ConnectionError("lost flaky://anna:s3cr%2Ft@host/depot with password s3cr/t")
            LINE.sent.append(str(path2))
        super().put_file(path1, path2)

    def cat_file(self, path: Any, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        with LINE.lock:
            LINE.reads_left -= start is not None
            if LINE.reads_left < 0:
                raise ConnectionError("lost")
            content = super().cat_file(path, start, end)
            assert isinstance(content, bytes)
            LINE.read_bytes += len(content) if start is not None else 0
        return content


fsspec.register_implementation("flaky", FlakyFiles, clobber=True)
