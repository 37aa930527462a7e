"""The material of an explanation: pieces of text where a latent fires, some to explain it by and others to test that,
and pieces where it is silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from random import Random
from typing import TYPE_CHECKING, Any

from lmsae.interpretation.explaining.config import Settings

if TYPE_CHECKING:
    from lmsae.interpretation.opening import Features

ACTIVE_SHARE = 0.3
"""A token is marked if the latent's code there is at least this share of the largest one in the piece. Weaker ones
around a peak would say little of it."""
OPEN, CLOSE = "<<", ">>"


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that follow each other in a context, and the size of a latent's code at each; 0 where it is silent."""

    context: int
    start: int
    texts: tuple[str, ...]
    sizes: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """The piece as a reader sees it: one line, without the signs that mark tokens."""
        return self.mark(frozenset())

    @property
    def active(self) -> frozenset[int]:
        """The positions in the piece where the latent is active enough to be marked."""
        limit = ACTIVE_SHARE * max(self.sizes, default=0.0)
        return frozenset(place for place, size in enumerate(self.sizes) if size > 0 and size >= limit)

    def mark(self, places: frozenset[int]) -> str:
        """The text with the tokens at some places between marks; neighbors share theirs."""
        parts = []
        for place, text in enumerate(self.texts):
            opens, closes = place in places and place - 1 not in places, place in places and place + 1 not in places
            plain = text.replace(OPEN, "< <").replace(CLOSE, "> >").replace("\r", "").replace("\n", "⏎")
            parts.append(f"{OPEN if opens else ''}{plain}{CLOSE if closes else ''}")
        return "".join(parts)

    def overlaps(self, other: "Piece") -> bool:
        """True if two pieces share a token of the text."""
        here, there = (range(one.start, one.start + len(one.texts)) for one in (self, other))
        return self.context == other.context and here.start < there.stop and there.start < here.stop


@dataclass(frozen=True, slots=True)
class Material:
    """The pieces of one latent: those `shown` to explain it, and others, where it fires and where it is `silent`, to
    score that."""

    latent: int
    shown: Sequence[Piece]
    active: Sequence[Piece]
    silent: Sequence[Piece] = field(default=())

    def with_silent(self, pool: Sequence[Piece], settings: Settings) -> "Material":
        """The same with as many pieces of a pool where the latent is silent as there are active ones."""
        drawn = list(pool)
        Random(f"{settings.seed}/{self.latent}/silent").shuffle(drawn)
        return Material(self.latent, self.shown, self.active, drawn[: len(self.active)])


def choose_latents(described: "Features", settings: Settings) -> list[int]:
    """The latents to explain, in their order. Those that never fire cannot be. Raises IndexError for a number that is
    none."""
    latents = described.latents().select(["latent", "active_tokens"]).to_pydict()
    alive = [one for one, active in zip(latents["latent"], latents["active_tokens"], strict=True) if active]
    if isinstance(settings.latents, int):
        return sorted(Random(settings.seed).sample(alive, min(settings.latents, len(alive))))
    if unknown := [one for one in settings.latents if not 0 <= one < described.info.latents]:
        raise IndexError(f"latent {unknown[0]}: there are {described.info.latents:,}, counted from 0")
    return sorted({*settings.latents} & {*alive})


def choose_material(described: "Features", latent: int, settings: Settings) -> Material:
    """The pieces of a latent: by turns from its largest codes and each quantile bin, one to show and one to score.

    What is scored shares no token of the text with what is shown.
    """
    kinds: dict[str, list[Piece]] = {}
    for row in described.contexts(latent).to_pylist():
        kinds.setdefault(row["kind"], []).append(_piece(row))
    for kind, pieces in kinds.items():
        Random(f"{settings.seed}/{latent}/{kind}").shuffle(pieces)
    turns = chain.from_iterable(zip_longest(*(kinds[kind] for kind in sorted(kinds, reverse=True))))
    shown, active = list[Piece](), list[Piece]()
    for piece in (one for one in turns if one is not None):
        if any(piece.overlaps(one) for one in (*shown, *active)):
            continue
        wants_shown = len(shown) < settings.shown and (len(shown) <= len(active) or len(active) >= settings.scored)
        if wants_shown:
            shown.append(piece)
        elif len(active) < settings.scored:
            active.append(piece)
    return Material(latent, shown, active)


def _piece(row: Mapping[str, Any]) -> Piece:
    sizes = tuple(abs(code or 0.0) for code in row["activations"])
    return Piece(row["context"], row["start"], tuple(row["texts"]), sizes)
