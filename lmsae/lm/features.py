"""`builtin:features`: a model made of known sparse features, described by a few numbers in its name. No torch here.

    builtin:features?features=512&width=64&probability=0.01&seed=1

A number that the name leaves out is at its default. Every token holds some of the features, and its activation is the
sum of their directions. So the features that a dictionary should find are known. lmsae/lm/synthetic.py runs the model.
"""

import hashlib
from typing import Self
from urllib.parse import parse_qsl

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lmsae.config import Frozen, JsonObject, canonical_json
from lmsae.errors import SourceError, suggest

NAME = "builtin:features"
MODEL_TYPE = "features"
GENERATOR = 1
"""Goes up when the same numbers must give other activations, so that earlier artifacts keep a name of their own."""


class Features(Frozen):
    """The numbers of a model of known features: how many there are, how often they fire, and what its layers do.

    The first features have no parent. Their children stand behind them, in the order of the parents.
    """

    features: int = Field(default=256, gt=0, le=2**20, description="Features of a token.")
    width: int = Field(default=64, gt=1, description="Width of every hook point.")
    probability: float = Field(default=0.02, gt=0, le=1, description="Mean firing rate of features without a parent.")
    skew: float = Field(default=0.0, ge=0, description="Firing rates fall as rank ** -skew; 0 makes them equal.")
    spread: float = Field(default=0.5, ge=0, le=1, description="Amounts are uniform between 1 - spread and 1 + spread.")
    group: int = Field(default=1, ge=1, description="So many features in a row, without a parent, fire together.")
    correlation: float = Field(
        default=0.0, ge=0, le=1, description="Correlation of the firing of two features of one group and rate."
    )
    children: int = Field(
        default=0, ge=0, description="Children of each parent; a child fires only if its parent does."
    )
    child_probability: float = Field(
        default=0.5, gt=0, le=1, description="How often a child fires where its parent does."
    )
    layers: int = Field(default=2, ge=1, le=1024, description="Layers of the network; each turns directions a little.")
    moved: int = Field(
        default=0, ge=0, description="So many features of the token before are written by the attention of each layer."
    )
    erased: int = Field(default=0, ge=0, description="So many features are removed by the MLP of each layer.")
    noise: float = Field(
        default=0.01, ge=0, description="Standard deviation of the normal noise in each coordinate of the residual."
    )
    d_vocab: int = Field(default=4096, gt=1, description="Token ids, and width of the logits.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of directions, firing and noise.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.features % (1 + self.children):
            raise ValueError(
                f"features={self.features} cannot be parted into parents with {self.children} children each: take a "
                f"multiple of {1 + self.children}"
            )
        if (self.group > 1) != (self.correlation > 0):
            raise ValueError("group and correlation need each other: as in group=4&correlation=0.5")
        if self.child_probability != type(self).model_fields["child_probability"].default and not self.children:
            raise ValueError("child_probability needs children, as in children=2")
        if self.layers * (self.moved + self.erased) > self.features:
            raise ValueError(
                f"{self.layers} layers that move {self.moved} and erase {self.erased} each need more than "
                f"features={self.features}"
            )
        if (most := self.rates()[0]) > 1:
            raise ValueError(
                f"probability={self.probability} with skew={self.skew} gives the most frequent feature a rate of "
                f"{most:.2f}, above 1: lower one of them"
            )
        return self

    @classmethod
    def parse(cls, name: str) -> "Features | None":
        """Parse the name of a model into its features; None if it is the name of another model.

        Raises SourceError with all faults of the name.
        """
        base, _, query = name.partition("?")
        if base != NAME:
            return None
        pairs = parse_qsl(query, keep_blank_values=True)
        given = dict(pairs)
        if len(given) < len(pairs):
            raise SourceError(f"model {name}: a number is given twice")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SourceError(f"model {name}: {'; '.join(_describe_fault(one) for one in error.errors())}") from None

    @property
    def parents(self) -> int:
        """The number of features without a parent."""
        return self.features // (1 + self.children)

    @property
    def known(self) -> int:
        """The number of known features of a token.

        Behind the token's own features stand those of the token before that attention writes, layer by layer.
        """
        return self.features + self.layers * self.moved

    def rates(self) -> list[float]:
        """The firing rate of each feature of a token, (features,)."""
        weights = [rank**-self.skew for rank in range(1, self.parents + 1)]
        scale = self.probability * self.parents / sum(weights)
        rates = [weight * scale for weight in weights]
        return rates + [rate * self.child_probability for rate in rates for _ in range(self.children)]

    def name(self) -> str:
        """The shortest name of these features, however the user wrote them."""
        changed = self.model_dump(exclude_defaults=True)
        return NAME + "?" * bool(changed) + "&".join(f"{name}={value}" for name, value in changed.items())

    def revision(self) -> str:
        """A digest of all the numbers, defaults too, and of the generator's version."""
        canonical = canonical_json({"generator": GENERATOR, **self.model_dump(mode="json")})
        return f"digest:{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def config(self) -> JsonObject:
        """The config that stands in place of config.json."""
        return {"model_type": MODEL_TYPE, "vocab_size": self.d_vocab, **self.model_dump()}


def _describe_fault(error: ErrorDetails) -> str:
    """One of pydantic's errors in words about the name that the user wrote."""
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    field = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"there is no number {field!r}{suggest(field, Features.model_fields)} (there are {_CHOICE})"
    return f"{field}={error['input']}: {error['msg'][0].lower()}{error['msg'][1:]}"


_CHOICE = ", ".join(Features.model_fields)
