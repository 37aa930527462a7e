"""The config of training, without torch: the columns `train.*`."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import NotEnoughTokens
from lmsae.sparsity.capabilities import TakesAnyK
from lmsae.training import schedules

AUTO_LR, AUTO_LATENTS = 2e-4, 2**14


def _check_share(duration: int | float) -> int | float:
    if isinstance(duration, float) and duration > 1:
        raise ValueError(f"{duration!r} is a share of all steps, at most 1.0; write a number of steps without a point")
    return duration


Duration = Annotated[int | float, AfterValidator(_check_share)]


def _parse_rate(value: object) -> object:
    """A learning rate; one message for a wrong one, where a union would have one a member."""
    if value == "auto":
        return value
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("wanted: a number greater than 0, or auto")
    return number


Rate = Annotated[float | Literal["auto"], BeforeValidator(_parse_rate)]


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
    lr: Rate = Field(
        default=5e-4,
        description="Learning rate; `auto` is 2e-4 / sqrt(latents / 2^14), the topk family's (Gao et al. 2024).",
    )
    lr_schedule: Literal["constant", "trapezoid", "linear", "cosine", "exponential"] = Field(
        default="trapezoid",
        description="How the learning rate falls to `train.lr_end_ratio` after its rise: not at all, linearly over the "
        "last `train.lr_cool_down_steps` (trapezoid), or over all steps linearly, as half a cosine, or by the same "
        "ratio every step (exponential).",
    )
    lr_warm_up_steps: Duration = Field(default=0.01, ge=0, description="Linear rise of the learning rate.")
    lr_cool_down_steps: Duration = Field(
        default=0.2, ge=0, description="Linear fall of the learning rate at the end, of a trapezoid."
    )
    lr_end_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Learning rate at the end, as a share of `train.lr`."
    )
    sparsity_warm_up_steps: Duration = Field(
        default=0.05, ge=0, description="Linear rise of sparsity penalties from 0."
    )
    initial_k: int | None = Field(
        default=None, gt=0, description="k that training begins with, before it goes to `sae.k`; empty is off."
    )
    k_cold_boot_steps: Duration = Field(default=0, ge=0, description="Time for which k stays `train.initial_k`.")
    k_warm_up_steps: Duration = Field(
        default=0.1, ge=0, description="Time after that over which k goes from `train.initial_k` to `sae.k`."
    )
    k_schedule: Literal["linear", "exponential"] = Field(
        default="linear", description="How k gets there: linearly, or as exp(-3 t), fast and then slowly."
    )
    optimizer: Literal["adam", "sparse_adam", "muon", "schedule_free"] = Field(
        default="adam",
        description="adam: with `train.weight_decay` it is AdamW, with `sae.unit_norm_decoder` constrained Adam. "
        "sparse_adam: weights without a gradient, those of latents that did not fire, stay as they are, and so do "
        "their moments. muon: matrices by Muon with momentum 0.95 (updates of Adam's size), the rest by Adam. "
        "schedule_free: schedule-free AdamW, which averages weights itself; it needs `pip install lmsae[optimizers]`.",
    )
    threshold_lr_factor: float = Field(
        default=1.0,
        gt=0,
        description="Learning rate of jumprelu thresholds over `train.lr`. Adam moves a threshold by at most about its "
        "own size times that rate a step: over a few hundred steps, take 10 or more, or it stays where it began; over "
        "hundreds of thousands, 0.1 keeps it calm.",
    )
    encoder_lr_factor: float = Field(
        default=1.0,
        gt=0,
        description="Learning rate of what reads (encoder, GLU gate, queries and keys, r_mag) over `train.lr`.",
    )
    decoder_lr_factor: float = Field(
        default=1.0, gt=0, description="Learning rate of what writes (decoder, W_skip, transforms) over `train.lr`."
    )
    bias_lr_factor: float = Field(default=1.0, gt=0, description="Learning rate of all biases over `train.lr`.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the squared gradient.")
    adam_eps: float = Field(default=1e-8, gt=0, description="What Adam adds to the root of the squared gradient.")
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled decay of matrices (not of biases and thresholds), times the rate."
    )
    grad_clip: float = Field(default=1.0, ge=0, description="Largest global L2 norm of the gradient; 0 is off.")
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        description="Parts that a batch is processed in, one after the other, to save memory. Losses are means over "
        "the whole batch; what looks beyond a token (batchtopk's selection, learned thresholds, the coefficient of "
        "p_anneal, tanh_quad, target_l0 and target_l0_gemma, the factors of aux_k and ghost_grads, the predictions of "
        "e2e_kl and e2e_ce) looks at a part, whose loss counts by its tokens.",
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of a bias-corrected running mean of all weights, which is what is saved; 0 is off.",
    )
    dead_threshold: int = Field(
        default=10_000_000, gt=0, description="Tokens without firing after which a latent is dead."
    )
    resample_steps: Duration = Field(
        default=0,
        ge=0,
        description="Every so often dead latents begin anew from badly reconstructed tokens (Bricken et al. 2023).",
    )
    resample_times: int = Field(default=4, gt=0, description="How often that happens at most.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of matrix products; master weights and sums are float32 in both. Where few latents are "
        "active only their selection is in bfloat16: their codes are computed from the weights as they are.",
    )

    @model_validator(mode="after")
    def _hangs_together(self) -> "TrainConfig":
        if self.lr_schedule == "exponential" and not self.lr_end_ratio:
            raise ValueError("an exponential lr_schedule never reaches 0: set lr_end_ratio, for example to 0.01")
        if self.optimizer == "schedule_free":
            if self.lr_schedule != "constant":
                raise ValueError(
                    f"optimizer schedule_free takes the place of lr_schedule {self.lr_schedule}: set it to constant"
                )
            if self.ema:
                raise ValueError("optimizer schedule_free averages weights itself: leave ema 0, or use adam")
            if not self.adam_beta1:
                raise ValueError("optimizer schedule_free needs an adam_beta1 above 0, such as 0.9")
        if self.initial_k and self.steps:
            moving = sum(
                schedules.steps_of(part, self.steps) for part in (self.k_cold_boot_steps, self.k_warm_up_steps)
            )
            if moving >= self.steps:
                raise ValueError(
                    f"k would reach sae.k after {moving:,} steps (k_cold_boot_steps and k_warm_up_steps), but there "
                    f"are {self.steps:,}: shorten them"
                )
        return self

    def refusals(self, dictionary: DictionaryConfig, unit_norm_decoder: bool) -> list[tuple[str, str]]:
        """The settings that this dictionary cannot have: columns, each with what to use instead."""
        refused = []
        if self.optimizer == "schedule_free" and unit_norm_decoder:
            message = "schedule_free averages weights, and means of unit rows have no norm of 1: use adam"
            refused.append(("train.optimizer", f"{message}, or sae.unit_norm_decoder false"))
        if self.initial_k:
            refused += [("train.initial_k", message) for message in self._k_refusals(dictionary)]
        if self.resample_steps:
            refused += [("train.resample_steps", message) for message in _resampling_refusals(dictionary)]
        return refused

    def _k_refusals(self, dictionary: DictionaryConfig) -> Iterator[str]:
        act_fn = dictionary.act_fn
        if TakesAnyK not in act_fn.offers:
            yield f"{act_fn.kind} cannot change the number of its codes in training: leave it empty, or use topk"
        elif (self.initial_k or 0) > dictionary.d_sae:
            yield f"it is {self.initial_k:,}, but there are only {dictionary.d_sae:,} latents"

    @property
    def steps(self) -> int:
        """Whole batches in `tokens`."""
        return self.tokens // self.batch_size

    def peak_lr(self, latents: int) -> float:
        """The learning rate of a dictionary with so many latents, before its schedule."""
        return AUTO_LR / math.sqrt(latents / AUTO_LATENTS) if self.lr == "auto" else self.lr

    def lr_factor(self, step: int) -> float:
        """The factor of the learning rate at a step."""
        fall = self.lr_cool_down_steps if self.lr_schedule == "trapezoid" else 1.0
        shape = schedules.LR_SHAPES[self.lr_schedule]
        return schedules.learning_rate(step, self.steps, shape, self.lr_warm_up_steps, fall, self.lr_end_ratio)

    def sparsity_factor(self, step: int) -> float:
        """The factor of sparsity penalties at a step, while they warm up."""
        return schedules.warm_up(step, self.steps, self.sparsity_warm_up_steps)

    def k_at(self, step: int, k: int) -> int:
        """k at a step, for an activation function that ends with `k`."""
        shape, ends = schedules.K_SHAPES[self.k_schedule], (self.initial_k or k, k)
        return schedules.k_at(step, self.steps, shape, ends, self.k_cold_boot_steps, self.k_warm_up_steps)

    def resamples_after(self, step: int) -> bool:
        """True if dead latents begin anew after a step. They never do after the last one."""
        every, done = schedules.steps_of(self.resample_steps, self.steps), step + 1
        return bool(every) and done % every == 0 and done // every <= self.resample_times and done < self.steps

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


def _resampling_refusals(dictionary: DictionaryConfig) -> Iterator[str]:
    geometry, act_fn = dictionary.geometry, dictionary.act_fn
    if geometry.kind != "sae":
        yield f"it takes decoder rows from the input, and a {geometry.kind} writes something else: use the aux_k loss"
    elif geometry.tied_encoder or geometry.glu_encoder:
        yield "it sets encoder and decoder apart, and no gate: leave sae.tied_encoder and sae.glu_encoder false"
    if act_fn.brings_bias or act_fn.kind == "jumprelu":
        yield (
            f"it leaves the biases and thresholds of {act_fn.kind} as they are, and with them latents dead: use the "
            "pre_act loss for jumprelu, or another activation function"
        )
