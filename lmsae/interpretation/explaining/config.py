"""The settings of explanations, without torch or a network."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from lmsae.config import Frozen

Scorer = Literal["detection", "fuzzing"]
SCORERS: tuple[Scorer, ...] = ("detection", "fuzzing")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class Settings(Frozen):
    """The endpoint that is asked, the latents that are explained, and what is shown of each."""

    endpoint: str = Field(description="Base address of an OpenAI-compatible interface, such as https://host/v1.")
    model: str = Field(min_length=1, description="The model that answers, as the endpoint calls it.")
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the key.")
    latents: int | tuple[int, ...] = Field(default=100, description="How many, drawn by the seed, or their numbers.")
    shown: int = Field(default=20, gt=0, le=1000, description="Pieces of text that an explanation is made from.")
    scored: int = Field(default=20, gt=0, le=1000, description="Other pieces a score is made from, and as many silent.")
    together: int = Field(default=5, gt=0, le=100, description="Pieces in one question of a scorer.")
    scorers: tuple[Scorer, ...] = Field(default=SCORERS, description="Scores to measure.")
    seed: int = Field(default=0, ge=0, description="Seed of latents, pieces and their order.")
    temperature: float | None = Field(default=0.0, ge=0, description="Temperature; none leaves it to the endpoint.")
    concurrency: int = Field(default=8, gt=0, le=256, description="Requests at the same time.")
    retries: int = Field(default=6, ge=0, description="Times that a request is made again after 429, 5xx or silence.")
    timeout_s: float = Field(default=120, gt=0, description="Seconds to wait for an answer.")
    price_in: float | None = Field(default=None, ge=0, description="Price of a million tokens of questions.")
    price_out: float | None = Field(default=None, ge=0, description="Price of a million tokens of answers.")

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("wanted: an address that begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError("an address holds no key: put it into the variable that --key-variable names")
        return endpoint.rstrip("/").removesuffix("/chat/completions")


def parse_latents(text: str) -> int | tuple[int, ...]:
    """The latents that a text names: `100` is how many; `3,` `3,7` or `3,10-19` are numbers. Raises ValueError."""
    if text.isdigit():
        return int(text)
    numbers: dict[int, None] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        match = _RANGE.fullmatch(part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"found {part!r}; wanted: how many, such as 100, or numbers, such as 3, or 3,7,10-19")
        numbers |= dict.fromkeys(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(numbers)
