"""The distance of a reconstruction from its target: by all latents, or nested, by the first of them (Matryoshka)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lmsae.geometry.forward import Forward
from lmsae.losses.loss import Loss, TrainingStep

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.geometry.geometry import Geometry
    from lmsae.sparsity.sparsity import Sparsity

SAMPLING_POWER = 0.5
"""A sampled prefix holds at most m of n latents with probability (m / n)^0.5, as in Nabeshima's code."""


def squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """mean over tokens of ||reconstruction - target||^2."""
    from torch.nn.functional import mse_loss

    return mse_loss(reconstruction, target, reduction="sum") / target.shape[:-1].numel()


def reconstruction_loss(forward: Forward) -> Tensor:
    """mean over tokens of ||reconstruction - target||^2."""
    return squared_error(forward.reconstruction, forward.target)


def nested_loss(geometry: Geometry, forward: Forward, sizes: Sequence[int]) -> Tensor:
    """The mean over prefixes of the reconstruction loss by the first m latents, in each group, for every m of `sizes`.

    Sizes ascend, and the last is the whole group. A prefix is the one before plus a stretch, and the whole is decoded
    already: all prefixes together cost less than one decode more.
    """
    written, losses = geometry.base(forward.x), []
    for part in forward.codes.write_stretches(geometry, forward.x, sizes):
        written = written + part
        losses.append(squared_error(written, forward.target))
    return sum(losses, start=reconstruction_loss(forward)) / len(sizes)


def _split(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _add_whole(fractions: tuple[float, ...]) -> tuple[float, ...]:
    if wrong := [fraction for fraction in fractions if not 0 < fraction <= 1]:
        raise ValueError(f"{wrong[0]!r} is no share of the latents; each is above 0 and at most 1")
    return tuple(sorted({*fractions, 1.0}))


class Nested(Loss):
    """Matryoshka: the mean of the reconstruction losses of nested dictionaries, each the first latents of the next
    (Bussmann et al. 2025, arXiv 2503.17547, equation 4). The whole dictionary is always one of them."""

    replaces_reconstruction: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    kind: Literal["nested"] = "nested"
    matryoshka_prefixes: Annotated[tuple[float, ...], BeforeValidator(_split), AfterValidator(_add_whole)] = Field(
        default=(1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0),
        description="Shares of the latents (of each layer) that must reconstruct alone, such as 0.25 0.5 1; the whole "
        "is always among them.",
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        return nested_loss(geometry, forward, self.sizes_at(geometry.latents // geometry.groups, training))

    def sizes_at(self, latents: int, training: TrainingStep) -> list[int]:
        """The sizes at a step of training."""
        del training
        return self.sizes(latents)

    def sizes(self, latents: int) -> list[int]:
        """The number of a group's latents in each prefix, in ascending order; a prefix holds at least one."""
        return sorted({max(1, round(share * latents)) for share in self.matryoshka_prefixes})


class NestedSampled(Loss):
    """Matryoshka over prefixes drawn anew at each step, short ones more often (Nabeshima 2024; arXiv 2503.17547,
    appendix): a length is at most m of n with probability (m / n)^0.5. The whole dictionary is always one of them."""

    replaces_reconstruction: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    kind: Literal["nested_sampled"] = "nested_sampled"
    matryoshka_sampled: int = Field(
        default=10, gt=0, description="Prefixes of the latents drawn at each step, the whole among them."
    )

    def __call__(self, geometry: Geometry, sparsity: Sparsity, forward: Forward, training: TrainingStep) -> Tensor:
        return nested_loss(geometry, forward, self.sizes_at(geometry.latents // geometry.groups, training))

    def sizes_at(self, latents: int, training: TrainingStep) -> list[int]:
        """The sizes at a step of training."""
        return self.sizes(latents, training.seed, training.step)

    def sizes(self, latents: int, seed: int, step: int) -> list[int]:
        """The number of a group's latents in each prefix, in ascending order: a pure function of seed and step."""
        drawn = random.Random(f"nested {seed} {step}")
        sizes = {latents}
        while len(sizes) < min(self.matryoshka_sampled, latents):
            sizes.add(max(1, math.ceil(latents * drawn.random() ** (1 / SAMPLING_POWER))))
        return sorted(sizes)
