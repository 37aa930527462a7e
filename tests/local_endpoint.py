"""A language model on this machine: an OpenAI-compatible endpoint whose answers a test computes from the questions."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.local_server import Handler, start_server

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

    class Endpoint(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.read_body())
            with lock:
                model.keys.append(self.headers.get("Authorization"))
                error = model.errors.pop(0) if model.errors else None
            if error:
                status, headers, content = error
                return self.send(status, content, headers)
            if self.path != "/v1/chat/completions":
                return self.send(404, b"no such path", {})
            model.wait()
            said = {one["role"]: one["content"] for one in body["messages"]}
            text = model.answer(said["system"], said["user"])
            with lock:
                model.asked.append(body)
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            answer = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
            self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    with start_server(Endpoint) as address:
        model.url = f"{address}/v1"
        yield model
