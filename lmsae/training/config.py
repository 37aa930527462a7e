"""The config of training, without torch: the columns `train.*`."""

import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from lmsae.config import POINTS_OF_THOUSANDS, Frozen
from lmsae.errors import NotEnoughTokens
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


def _parse_keeping(value: object) -> object:
    """The dictionaries to keep: log, one duration, or several that rise; one message for what is none of these."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if parts == ["log"]:
        return ("log",)
    numbers = [_parse_duration(part) for part in parts]
    if len(numbers) == 1 and numbers[0] == 0:
        return ()
    if None in numbers or 0 in numbers or any(a >= b for a, b in pairwise(filter(None, numbers)) if type(a) is type(b)):
        raise ValueError("wanted: log, one duration (every 500 steps), or several that rise (100 1000 10000)")
    return tuple(_check_share(number) for number in numbers if number)


def _parse_duration(value: object) -> int | float | None:
    """A number as a sheet or a YAML file writes it; None for anything else."""
    if isinstance(value, str) and not POINTS_OF_THOUSANDS.fullmatch(value):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return _parse_duration(number(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < math.inf else None


_KEEPING = {"anyOf": [{"const": "log"}, {"type": "number"}, {"type": "array", "items": {"type": "number"}}]}
Keeping = Annotated[tuple[int | float | Literal["log"], ...], BeforeValidator(_parse_keeping), WithJsonSchema(_KEEPING)]


class TrainConfig(Frozen):
    """A duration is a number of steps (an integer) or a share of all steps (0.05); 0 is off."""

    tokens: int = Field(gt=0, description="Tokens to train on; special tokens do not count.")
    epochs: int = Field(
        default=1, ge=1, description="How often training may read the stored tokens, each time in another order."
    )
    batch_size: int = Field(default=4096, gt=0, description="Tokens in a step.")
    window_tokens: int = Field(
        default=262_144, gt=0, description="Tokens that training draws from all over the store and mixes at a time."
    )
    seed: int = Field(default=0, ge=0, description="Seed for the order of the tokens.")
    lr: Rate = Field(
        default=5e-4,
        description="Learning rate. `auto` is 2e-4 / sqrt(latents / 2^14), the rate of the topk family (Gao et al. "
        "2024).",
    )
    lr_schedule: Literal["constant", "trapezoid", "linear", "cosine", "exponential"] = Field(
        default="trapezoid",
        description="Fall of the learning rate to `train.lr_end_ratio` after its rise. constant: none. trapezoid: "
        "linear, over the last `train.lr_cool_down_steps`. linear: linear, over all steps. cosine: half a cosine, over "
        "all steps. exponential: by the same ratio at every step.",
    )
    lr_warm_up_steps: Duration = Field(
        default=0.01, ge=0, description="Time over which the learning rate rises linearly."
    )
    lr_cool_down_steps: Duration = Field(
        default=0.2, ge=0, description="Time over which the learning rate of a trapezoid falls linearly at the end."
    )
    lr_end_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Learning rate at the end, as a share of `train.lr`."
    )
    sparsity_warm_up_steps: Duration = Field(
        default=0.05, ge=0, description="Time over which sparsity penalties rise linearly from 0."
    )
    initial_k: int | None = Field(
        default=None,
        gt=0,
        description="k at the start of training, before it moves to `sae.k`. Empty: k is `sae.k` from the start.",
    )
    k_cold_boot_steps: Duration = Field(default=0, ge=0, description="Time for which k stays at `train.initial_k`.")
    k_warm_up_steps: Duration = Field(
        default=0.1, ge=0, description="Time after that, over which k moves from `train.initial_k` to `sae.k`."
    )
    k_schedule: Literal["linear", "exponential"] = Field(
        default="linear",
        description="Course of k to `sae.k`. linear: at an even pace. exponential: as exp(-3 t), first fast and then "
        "slowly.",
    )
    optimizer: Literal["adam", "sparse_adam", "muon", "schedule_free"] = Field(
        default="adam",
        description="adam: with `train.weight_decay` it is AdamW, with `sae.unit_norm_decoder` it is constrained Adam. "
        "sparse_adam: weights without a gradient (those of latents that did not fire) keep their values and their "
        "moments. muon: Muon with momentum 0.95 for matrices (updates have the size of Adam's), Adam for the rest. "
        "schedule_free: schedule-free AdamW, which averages weights itself; it needs `pip install lmsae[optimizers]`.",
    )
    threshold_lr_factor: float = Field(
        default=1.0,
        ge=0,
        description="Learning rate of jumprelu thresholds as a multiple of `train.lr`. In one step Adam moves a "
        "threshold by at most about its own size times that rate. For a run of a few hundred steps take 10 or more, or "
        "the threshold stays where it began. For hundreds of thousands of steps 0.1 keeps it calm. 0 freezes them.",
    )
    encoder_lr_factor: float = Field(
        default=1.0,
        ge=0,
        description="Learning rate of what reads (encoder, GLU gate, queries and keys, r_mag) as a multiple of "
        "`train.lr`. 0 freezes it: these weights stay as they start, to the bit.",
    )
    decoder_lr_factor: float = Field(
        default=1.0,
        ge=0,
        description="Learning rate of what writes (decoder, W_skip, transforms) as a multiple of `train.lr`. 0 "
        "freezes it.",
    )
    decoder_min_cosine: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least cosine of a decoder row to where it started, at each hook point: 0.8 is the soft-frozen "
        "decoder of arXiv 2602.14111. After every step, rows beyond it turn back to it and keep their norms. Empty: no "
        "limit.",
        # A run without a limit has the key that it had before there was this column.
        exclude_if=lambda value: value is None,
    )
    bias_lr_factor: float = Field(
        default=1.0, ge=0, description="Learning rate of all biases as a multiple of `train.lr`. 0 freezes them."
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of Adam's running mean of gradients.")
    adam_beta2: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of Adam's running mean of squared gradients."
    )
    adam_eps: float = Field(
        default=1e-8, gt=0, description="Number that Adam adds to the root of the mean squared gradient."
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="Decoupled weight decay of matrices; each step applies it times the learning rate. Biases and "
        "thresholds do not decay.",
    )
    grad_clip: float = Field(default=1.0, ge=0, description="Largest global L2 norm of the gradient. 0 is off.")
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        description="Number of parts in which a batch is processed, one after the other, to save memory. Losses are "
        "means over the whole batch. What depends on more than one token sees a part only, and the part's loss counts "
        "by its tokens. This concerns batchtopk's selection, learned thresholds, the coefficient of p_anneal, "
        "tanh_quad, target_l0 and target_l0_gemma, the factors of aux_k and ghost_grads, and the predictions of e2e_kl "
        "and e2e_ce.",
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of a bias-corrected running mean of all weights. The mean is saved in place of the weights. "
        "0 is off.",
    )
    dead_threshold: int = Field(
        default=10_000_000, gt=0, description="Number of tokens after which a latent that has not fired is dead."
    )
    resample_steps: Duration = Field(
        default=0,
        ge=0,
        description="Time between two resamplings, in which dead latents start again from badly reconstructed tokens "
        "(Bricken et al. 2023). 0 is off.",
    )
    resample_times: int = Field(default=4, gt=0, description="Largest number of resamplings.")
    shards: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Number of processes that train the dictionary together, on one machine. Each has its share of the "
        "latents and, with CUDA, a GPU of its own. The last bits of sums depend on the number, and so it is part of "
        "what is trained ([scale](../docs/scale.md)).",
        # A run in one process has the key that it had before there was this column.
        exclude_if=lambda value: value == 1,
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of matrix products. Weights and sums are float32 in both cases. If few latents are "
        "active, only their selection is in bfloat16, and their codes are computed from the float32 weights.",
    )
    eval_steps: Duration = Field(
        default=0,
        ge=0,
        description="Time between two evaluations of the dictionary on held-out text in the course of training; the "
        "last one comes at its end. They run the language model if there is one, write `along.csv` and change no "
        "weight. 0 is off.",
    )
    eval_tokens: int = Field(
        default=16_384,
        gt=0,
        description="Largest number of held-out tokens of each of these evaluations, in whole contexts, at least one. "
        "They are the first of those that `eval.tokens` counts. Their activations are in memory.",
    )
    keep_steps: Keeping = Field(
        default=(),
        description="Dictionaries to keep on the way, in `steps/STEPS/` of the artifact. `log`: after 1, 2, 4, 8 ... "
        "steps. One duration: at this distance (500, or 0.1). Several that rise: after these (100 1000 10000). Empty, "
        "or 0: none. With `train.eval_steps` they are evaluated too.",
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
            if self.decoder_min_cosine is not None:
                raise ValueError(
                    "optimizer schedule_free averages weights, and means of rows near their start need not be near it: "
                    "leave decoder_min_cosine empty, or use adam"
                )
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

    @property
    def steps(self) -> int:
        """Whole batches in `tokens`."""
        return self.tokens // self.batch_size

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The numbers of steps after which the dictionary is kept, without the last."""
        return tuple(sorted({steps for steps in self._keepings() if 0 < steps < self.steps}))

    @property
    def evaluated_steps(self) -> tuple[int, ...]:
        """The numbers of steps after which the dictionary is evaluated on held-out text: none, or the last among
        them."""
        if not self.eval_steps:
            return ()
        every = max(1, schedules.steps_of(self.eval_steps, self.steps))
        return tuple(sorted({*range(every, self.steps, every), *self.kept_steps, self.steps}))

    def _keepings(self) -> Iterator[int]:
        marks = [mark if mark == "log" else max(1, schedules.steps_of(mark, self.steps)) for mark in self.keep_steps]
        match marks:
            case ["log"]:
                yield from (1 << power for power in range(self.steps.bit_length()))
            case [int(every)]:
                yield from range(every, self.steps, every)
            case _:
                yield from (int(mark) for mark in marks)

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

    def require_tokens(self, per_epoch: int, there_are: str = "the store holds") -> None:
        """Raise NotEnoughTokens unless so many usable tokens are what training wants; `there_are` says where."""
        if self.steps < 1:
            raise NotEnoughTokens(
                f"train.tokens is {self.tokens:,}, less than one batch of {self.batch_size:,}; raise train.tokens or "
                "lower train.batch_size"
            )
        wanted, there = self.steps * self.batch_size, per_epoch * self.epochs
        if wanted > there:
            times = f" and train.epochs reads them {self.epochs} times" if self.epochs > 1 else ""
            raise NotEnoughTokens(
                f"train.tokens is {self.tokens:,}, but {there_are} {per_epoch:,} tokens to train on{times}. Lower "
                f"train.tokens to {there:,}, set train.epochs to {-(-wanted // per_epoch)}, or give tokenize more text "
                "(dataset.*, tokenize.tokens)"
            )
