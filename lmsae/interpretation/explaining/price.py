"""The price of explanations before any is asked for: requests, tokens, and money where prices are given."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmsae.interpretation.explaining.config import Settings
from lmsae.interpretation.explaining.material import Material
from lmsae.interpretation.explaining.questions import Messages, ask_explanation, ask_score
from lmsae.runtime.numbers import format_count

CHARACTERS_A_TOKEN = 4
"""As English text has it in the tokenizers of today's models. Code has fewer, other languages far fewer."""
TOKENS_A_MESSAGE = 4
PHRASE = "x" * 80
"""Stands for an explanation that nobody has written yet."""
EXPLANATION_TOKENS = 30
TOKENS_A_VERDICT = 2


@dataclass(frozen=True, slots=True)
class Price:
    """The requests of some questions, and about how many tokens go in and come out."""

    requests: int
    tokens_in: int
    tokens_out: int

    def tell(self, settings: Settings) -> str:
        """A line for people, with the sum of money if prices are given."""
        told = (
            f"{self.requests:,} requests, about {format_count(self.tokens_in)} tokens of questions and "
            f"{format_count(self.tokens_out)} of answers"
        )
        sum_of = money(self.tokens_in, self.tokens_out, settings)
        return told if sum_of is None else f"{told}: about {format_money(sum_of)} at the prices given"


def format_money(amount: float) -> str:
    """A sum of money without a currency, which only the prices know; a small one keeps two digits that count."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def money(tokens_in: int, tokens_out: int, settings: Settings) -> float | None:
    """The sum of money for tokens; None without both prices."""
    if settings.price_in is None or settings.price_out is None:
        return None
    return (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6


def estimate_price(materials: Sequence[Material], settings: Settings) -> Price:
    """The price of all questions about some latents, as if none had an answer yet.

    Silent pieces are not known yet: they are taken to be as long as active ones.
    """
    requests = tokens_in = tokens_out = 0
    for material in materials:
        requests += 1
        tokens_in += count_tokens(ask_explanation(material.shown))
        tokens_out += EXPLANATION_TOKENS
        texts = [piece.text for piece in material.active for _ in range(2)]
        for scorer in settings.scorers:
            for begin in range(0, len(texts), settings.together):
                group = texts[begin : begin + settings.together]
                requests += 1
                tokens_in += count_tokens(ask_score(scorer, PHRASE, group))
                tokens_out += TOKENS_A_VERDICT * len(group) + 1
    return Price(requests, tokens_in, tokens_out)


def count_tokens(messages: Messages) -> int:
    """About how many tokens a question has, by its characters."""
    return sum(TOKENS_A_MESSAGE + -(-len(one["content"]) // CHARACTERS_A_TOKEN) for one in messages)
