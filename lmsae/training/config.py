"""How a dictionary is trained, without torch: the columns `train.*`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lmsae.config import Frozen
from lmsae.errors import NotEnoughTokens


def _at_most_all(duration: int | float) -> int | float:
    if isinstance(duration, float) and duration > 1:
        raise ValueError(f"{duration!r} is a share of all steps, at most 1.0; write a number of steps without a point")
    return duration


Duration = Annotated[int | float, AfterValidator(_at_most_all)]


class TrainConfig(Frozen):
    """A duration is a number of steps (an integer) or a share of all steps (0.05); 0 is off."""

    tokens: int = Field(gt=0, description="Tokens to train on; special tokens do not count.")
    epochs: int = Field(
        default=1, ge=1, description="How often the stored tokens may be read, each time in another order."
    )
    batch_size: int = Field(default=4096, gt=0, description="Tokens in a step.")
    window_tokens: int = Field(
        default=262_144, gt=0, description="Tokens that are drawn from all over the store and mixed."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of the tokens.")
    lr: float = Field(default=5e-4, gt=0, description="Learning rate.")
    lr_warm_up_steps: Duration = Field(default=0.01, ge=0, description="Linear rise of the learning rate.")
    lr_cool_down_steps: Duration = Field(default=0.2, ge=0, description="Linear fall of the learning rate at the end.")
    lr_end_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Learning rate at the end, as a share of `train.lr`."
    )
    sparsity_warm_up_steps: Duration = Field(
        default=0.05, ge=0, description="Linear rise of sparsity penalties from 0."
    )
    threshold_lr_factor: float = Field(
        default=1.0,
        gt=0,
        description="Learning rate of jumprelu thresholds over `train.lr`. Adam moves a threshold by at most about its "
        "own size times that rate a step: over a few hundred steps, take 10 or more, or it stays where it began.",
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the squared gradient.")
    grad_clip: float = Field(default=1.0, ge=0, description="Largest global L2 norm of the gradient; 0 is off.")
    dead_threshold: int = Field(
        default=10_000_000, gt=0, description="Tokens without firing after which a latent is dead."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of matrix products; master weights and sums are float32 in both."
    )

    @property
    def steps(self) -> int:
        """Whole batches in `tokens`."""
        return self.tokens // self.batch_size

    def require_tokens(self, per_epoch: int) -> None:
        """Raise NotEnoughTokens unless a store with so many usable tokens holds what training wants."""
        if self.steps < 1:
            raise NotEnoughTokens(
                f"train.tokens is {self.tokens:,}, less than one batch of {self.batch_size:,}; raise train.tokens or "
                "lower train.batch_size"
            )
        wanted, there = self.steps * self.batch_size, per_epoch * self.epochs
        if wanted > there:
            times = f" and train.epochs reads them {self.epochs} times" if self.epochs > 1 else ""
            raise NotEnoughTokens(
                f"train.tokens is {self.tokens:,}, but the store holds {per_epoch:,} tokens to train on{times}. Lower "
                f"train.tokens to {there:,}, set train.epochs to {-(-wanted // per_epoch)}, or give tokenize more text "
                "(dataset.*, tokenize.tokens)"
            )
