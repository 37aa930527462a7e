"""The ledger of answers: each is written down as it comes, so that none is asked for and paid for twice."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lmsae.config import canonical_json, key_of
from lmsae.interpretation.explaining.config import Settings
from lmsae.interpretation.explaining.endpoint import Endpoint
from lmsae.interpretation.explaining.questions import Messages

LEDGER = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is kept: the key of its question, its text, the tokens of both, and when it came (UTC)."""

    key: str
    latent: int
    kind: str
    text: str
    tokens_in: int | None
    tokens_out: int | None
    answered: str


class Ledger:
    """The answers in a folder, and an endpoint for questions that have none yet. Threads may share it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings, self.file = settings, folder / LEDGER
        self._lock = threading.Lock()
        self._known = {answer.key: answer for answer in _read(self.file)}
        self.new: list[Answer] = []
        """The answers of this process, in the order in which they came."""

    def key(self, messages: Messages) -> str:
        """The key of a question: the hash of all that its answer depends on."""
        asked = [self.settings.endpoint, self.settings.model, self.settings.temperature, messages]
        return key_of(canonical_json(asked))

    def knows(self, messages: Messages) -> bool:
        return self.key(messages) in self._known

    def ask(self, endpoint: Endpoint, latent: int, kind: str, messages: Messages) -> Answer:
        """The answer to a question: the one that is kept, or else one that the endpoint gives now. Raises
        EndpointError."""
        key = self.key(messages)
        if (known := self._known.get(key)) is not None:
            return known
        reply = endpoint.complete(messages)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        answer = Answer(key, latent, kind, reply.text, reply.tokens_in, reply.tokens_out, now)
        with self._lock:
            self._append(answer)
            self._known[key] = answer
            self.new.append(answer)
        return answer

    def _append(self, answer: Answer) -> None:
        line = json.dumps(asdict(answer), ensure_ascii=True) + "\n"
        with self.file.open("ab") as file:
            if file.tell() and not _ends_a_line(self.file):
                file.write(b"\n")  # behind what a killed process left of a line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _read(file: Path) -> Iterator[Answer]:
    """The whole answers of a file. A line that was cut short is asked for again."""
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield Answer(**json.loads(line))
        except (ValueError, TypeError):
            continue
