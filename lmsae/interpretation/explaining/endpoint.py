"""An OpenAI-compatible endpoint: one question in, one answer out, over plain HTTP."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import IO, Any

from lmsae.errors import EndpointError
from lmsae.interpretation.explaining.config import Settings
from lmsae.interpretation.explaining.questions import Messages

LONGEST_WAIT_S = 60.0
LARGEST_ANSWER = 4_000_000
"""Bytes: an answer to a short question is none of that size."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's text, and the tokens that the endpoint counted; None where it does not."""

    text: str
    tokens_in: int | None
    tokens_out: int | None


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Refuses to follow an endpoint elsewhere: the key would go along."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """The endpoint that the settings name. The key is read from the environment, and is written nowhere."""

    settings: Settings
    sleep: Callable[[float], None] = time.sleep
    retried: list[str] = field(default_factory=list)
    """The reasons why requests were made again, one each time."""

    def complete(self, messages: Messages) -> Reply:
        """The answer to a question. After 429, an error of the server or silence it asks again, each time later.

        Raises EndpointError if the endpoint refuses, or does not answer in the end.
        """
        for attempt in range(self.settings.retries + 1):
            try:
                return self._post(messages)
            except _Passing as passing:
                self.retried.append(str(passing))
                if attempt == self.settings.retries:
                    asked = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise EndpointError(
                        f"{self.settings.endpoint}: {passing} (asked {asked}). Run again later: answers that came are "
                        "kept. Fewer --concurrency may help."
                    ) from None
                self.sleep(min(2.0**attempt if passing.wait_s is None else passing.wait_s, LONGEST_WAIT_S))
        raise AssertionError("the loop returns or raises")

    def _post(self, messages: Messages) -> Reply:
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "messages": messages}
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        headers = {"Content-Type": "application/json", "User-Agent": "lmsae"}
        if key := os.environ.get(settings.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{settings.endpoint}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
        try:
            with urllib.request.build_opener(_StayHere).open(request, timeout=settings.timeout_s) as response:
                answer = response.read(LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                raise self._explain(error) from None
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _Passing(f"it cannot be reached ({self._hide(str(error) or type(error).__name__)})") from None
        return _read(answer)

    def _explain(self, error: urllib.error.HTTPError) -> "Exception":
        if error.code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT) or error.code >= 500:
            wait = error.headers.get("Retry-After", "")
            return _Passing(f"it answers with error {error.code}", float(wait) if wait.isdigit() else None)
        try:
            said = self._hide(" ".join(error.read(2000).decode("utf-8", "replace").split()))[:300]
        except OSError:
            said = ""
        mend = {
            401: f"set {self.settings.key_variable} to a key that it knows, or name another with --key-variable",
            403: f"the key in {self.settings.key_variable} may not use this model",
            404: "mend --endpoint (it ends in /v1 in most cases) or --model",
        }.get(error.code, "mend --endpoint, --model or --temperature (some models take none)")
        return EndpointError(
            f"{self.settings.endpoint}: it answers with error {error.code}{f' ({said})' if said else ''}; {mend}."
        )

    def _hide(self, text: str) -> str:
        """A text of the endpoint's without the key, should it say that."""
        key = os.environ.get(self.settings.key_variable)
        return text.replace(key, "...") if key else text


class _Passing(Exception):
    """A failure that may pass; `wait_s` are the seconds that the endpoint asks to wait."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


def _read(answer: bytes) -> Reply:
    try:
        found = json.loads(answer)
        text, usage = found["choices"][0]["message"]["content"], found.get("usage") or {}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Passing("its answer is none of a chat completion") from None
    tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (None, None)
    counts = [count if isinstance(count, int) else None for count in tokens]
    return Reply(text if isinstance(text, str) else "", counts[0], counts[1])
