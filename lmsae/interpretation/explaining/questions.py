"""The questions to a language model, and what its answers say."""

import json
import re
from collections.abc import Mapping, Sequence
from random import Random

from lmsae.interpretation.explaining.config import Scorer
from lmsae.interpretation.explaining.material import CLOSE, OPEN, Material, Piece

VERSION = 1
"""It goes up when the words of a question change: scores by other words cannot be compared."""
Messages = list[dict[str, str]]
LONGEST_EXPLANATION = 500
"""Characters: more is no explanation but a model that talks on."""

_EXPLAIN = f"""You study one internal direction of a language model, called a latent. You see pieces of text in which \
the latent is active. The tokens on which it is active stand between {OPEN} and {CLOSE}. The sign ⏎ is the end of a \
line.

Say in one short phrase what the marked tokens have in common: their meaning, their form, or what stands around them. \
Be as specific as the pieces allow. Do not mention the marks, the pieces or the latent.

Answer with one line of this form and nothing else:
Explanation: <your phrase>"""

_DETECT = """You are given a description of the text on which a latent of a language model is active, and a numbered \
list of pieces of text. Decide for each piece whether the latent is active anywhere in it. The sign ⏎ is the end of a \
line.

Answer with a JSON list that has one number for each piece, in their order: 1 if the latent is active in it, 0 if it \
is not. Write the list and nothing else."""

_FUZZ = f"""You are given a description of the tokens on which a latent of a language model is active, and a numbered \
list of pieces of text. In each piece some tokens stand between {OPEN} and {CLOSE}. Decide for each piece whether the \
description fits the marked tokens. The sign ⏎ is the end of a line.

Answer with a JSON list that has one number for each piece, in their order: 1 if the description fits the marked \
tokens, 0 if it does not. Write the list and nothing else."""

_INSTRUCTIONS: Mapping[Scorer, str] = {"detection": _DETECT, "fuzzing": _FUZZ}
_LABELED = re.compile(r"^\W*explanation\W*?:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_LIST = re.compile(r"\[[\s01,]*\]")


class Malformed(Exception):
    """An answer that does not have the form that was asked for."""


def ask_explanation(shown: Sequence[Piece]) -> Messages:
    """The question for an explanation, by pieces with their active tokens marked."""
    return _messages(_EXPLAIN, _numbered([piece.mark(piece.active) for piece in shown]))


def read_explanation(answer: str) -> str:
    """The explanation in an answer. Raises Malformed."""
    found = _LABELED.findall(answer)
    if not found or len(found[-1]) > LONGEST_EXPLANATION:
        raise Malformed(f"no line `Explanation: ...` of at most {LONGEST_EXPLANATION} characters")
    return found[-1]


Labeled = tuple[str, bool]
"""A piece as a scorer sees it, and whether the answer should be yes."""


def label_pieces(scorer: Scorer, material: Material, seed: int) -> list[Labeled]:
    """The pieces of a latent that a scorer asks about, active and silent ones, in an order that the seed shuffles.

    Detection shows them as they are. Fuzzing marks the active tokens, and in a silent piece the places that are active
    in another one.
    """
    draw = Random(f"{seed}/{material.latent}/{scorer}")
    if scorer == "detection":
        labeled = [(piece.text, True) for piece in material.active]
        labeled += [(piece.text, False) for piece in material.silent]
    else:
        labeled = [(piece.mark(piece.active), True) for piece in material.active]
        for piece in material.silent:
            places = draw.choice(material.active).active
            inside = frozenset(place for place in places if place < len(piece.texts))
            labeled.append((piece.mark(inside or frozenset([draw.randrange(len(piece.texts))])), False))
    draw.shuffle(labeled)
    return labeled


def ask_score(scorer: Scorer, explanation: str, pieces: Sequence[str]) -> Messages:
    """The question of a scorer about some pieces, by an explanation alone."""
    return _messages(_INSTRUCTIONS[scorer], f"Description: {explanation}\n\n{_numbered(pieces)}")


def read_score(answer: str, count: int) -> list[bool]:
    """The yes or no for each of so many pieces in an answer. Raises Malformed."""
    found = _LIST.findall(answer)
    try:
        values = json.loads(found[-1]) if found else []
    except ValueError:
        values = []
    if len(values) != count:
        raise Malformed(f"no list of {count} numbers 0 or 1")
    return [value == 1 for value in values]


def _messages(instruction: str, content: str) -> Messages:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": content}]


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"Piece {number}: {text}" for number, text in enumerate(texts, 1))
