"""The strongest latents at each token of a text: `lmsae.top_latents`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.errors import MissingArtifact, ShapeError

SHOWN_TOKENS = 3


@dataclass(frozen=True)
class LatentAt:
    """A latent at a token: its number, its code there, and what is known of its meaning."""

    latent: int
    code: float
    meaning: str

    def __str__(self) -> str:
        return f"{self.latent} {self.code:.2f}{f' ({self.meaning})' if self.meaning else ''}"


@dataclass(frozen=True)
class TokenLatents:
    """A token and its strongest latents, the strongest first. Special tokens have none if training left them out."""

    position: int
    token: int
    text: str
    latents: list[LatentAt]


@dataclass(frozen=True)
class TopLatents:
    """The strongest latents at each token of a text, as plain data. `print` shows a table."""

    tokens: list[TokenLatents]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict for each token, for JSON or a data frame."""
        return [asdict(token) for token in self.tokens]

    def __str__(self) -> str:
        shown = [json.dumps(token.text, ensure_ascii=False) for token in self.tokens]
        width = max(map(len, shown))
        return "\n".join(
            f"{token.position:4}  {text.ljust(width)}  {' · '.join(map(str, token.latents))}".rstrip()
            for token, text in zip(self.tokens, shown, strict=True)
        )


@torch.inference_mode()
def top_latents(sae: LoadedDictionary, text: str | Sequence[int] | Tensor, k: int = 5) -> TopLatents:
    """The k latents with the largest codes at each token of a text, or fewer where fewer fire.

    The size of a code is its absolute value. The meaning of a latent is its explanation, or else the tokens that it
    fires on most, if the stage `features` has described the dictionary. Raises ShapeError unless k is 1 or more, and
    NotEnoughTokens for a text without tokens.

        print(lmsae.top_latents(sae, "import os"))
    """
    if k < 1:
        raise ShapeError(f"k is {k}; wanted: 1 or more latents a token.")
    ids = sae.tokenize(text)
    codes, counted = sae.encode_sparse(sae.read(ids)), sae.counted(ids)[0].tolist()
    found = [codes.of(0, position) if counts else ((), ()) for position, counts in enumerate(counted)]
    pairs = [[(int(n), float(code)) for n, code in zip(*side, strict=True)][:k] for side in found]
    meanings = _meanings(sae, {latent for side in pairs for latent, _ in side})
    texts, index = sae.texts.in_contexts(ids.numpy())
    return TopLatents(
        [
            TokenLatents(
                position, token, texts[index[0, position]], [LatentAt(n, code, meanings.get(n, "")) for n, code in side]
            )
            for position, (token, side) in enumerate(zip(ids[0].tolist(), pairs, strict=True))
        ]
    )


def _meanings(sae: LoadedDictionary, latents: set[int]) -> dict[int, str]:
    """The meaning of some latents, as far as features tell."""
    try:
        described = sae.features
    except MissingArtifact:
        return {}
    chosen = sorted(latents)
    rows = described.latents(["explanation", "top_tokens"]).take(chosen).to_pylist()
    return {latent: _meaning(row) for latent, row in zip(chosen, rows, strict=True)}


def _meaning(row: dict[str, Any]) -> str:
    if row.get("explanation"):
        return str(row["explanation"])
    return " ".join(json.dumps(token["text"], ensure_ascii=False) for token in row["top_tokens"][:SHOWN_TOKENS])
