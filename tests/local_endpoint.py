"""A language model on this machine: an OpenAI-compatible endpoint whose answers a test computes from the questions."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, str], str]
"""Takes what the system and the user say."""


@dataclass
class Model:
    """The state of an endpoint: how it answers, what it was asked, and which errors come next."""

    answer: Answer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of requests that were answered, in their order."""
    keys: list[str | None] = field(default_factory=list)
    errors: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    wait: Callable[[], object] = lambda: None
    """Called before each answer."""


@contextmanager
def start_model(answer: Answer) -> Iterator[Model]:
    model, lock = Model(answer), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                model.keys.append(self.headers.get("Authorization"))
                error = model.errors.pop(0) if model.errors else None
            if error:
                return self._send(*error)
            if self.path != "/v1/chat/completions":
                return self._send(404, {}, b"no such path")
            model.wait()
            said = {one["role"]: one["content"] for one in body["messages"]}
            text = model.answer(said["system"], said["user"])
            with lock:
                model.asked.append(body)
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            answer = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
