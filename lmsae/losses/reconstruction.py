"""How far a reconstruction is from its target: by all latents, or nested, by the first of them (Matryoshka)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lmsae.losses.forward import Forward, Loss, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.kernels.entries import Entries

SAMPLING_POWER = 0.5
"""A sampled prefix holds at most m of n latents with probability (m / n)^0.5, as in Nabeshima's code."""


def squared_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    """mean over tokens of ||reconstruction - target||^2."""
    from torch.nn.functional import mse_loss

    return mse_loss(reconstruction, target, reduction="sum") / target.shape[:-1].numel()


def reconstruction_loss(forward: Forward) -> Tensor:
    """mean over tokens of ||reconstruction - target||^2."""
    return squared_error(forward.reconstruction, forward.target)


def nested_loss(geometry: Any, forward: Forward, sizes: Sequence[int]) -> Tensor:
    """The mean over prefixes of the reconstruction loss by the first m latents, in each group, for every m of `sizes`.

    Sizes ascend, and the last is the whole group. A prefix is the one before plus a stretch, and the whole is decoded
    already: all prefixes together cost less than one decode more.
    """
    if forward.entries is not None:
        return _nested_at_entries(geometry, forward, forward.entries, sizes)
    starts, stops = [0, *sizes[:-1]], sizes[:-1]
    codes = forward.codes.unflatten(-1, (geometry.groups, -1))
    # One split, not a slice a stretch: its gradient is one concatenation.
    parts = codes.split([b - a for a, b in zip(starts, sizes, strict=True)], dim=-1)
    written, losses = geometry.base(forward.x), []
    for part, start, stop in zip(parts, starts, stops, strict=False):
        written = written + geometry.contribution(part.flatten(-2), _stretch(geometry, codes, start, stop), forward.x)
        losses.append(squared_error(written, forward.target))
    return sum(losses, start=reconstruction_loss(forward)) / len(sizes)


def _nested_at_entries(geometry: Any, forward: Forward, entries: Entries, sizes: Sequence[int]) -> Tensor:
    """`nested_loss` of codes at few entries: all stretches are decoded in one go, each token's apart."""
    import torch

    width, stretches = geometry.latents // geometry.groups, len(sizes) - 1
    if not stretches:
        return reconstruction_loss(forward)
    latents, on_gpu = entries.latents, entries.latents.is_cuda
    ends = torch.tensor(sizes, pin_memory=on_gpu).to(latents.device, non_blocking=True)
    stretch = torch.bucketize(latents % width, ends, right=True)
    bag = stretch * entries.tokens + entries.token_index
    # The last stretch is decoded for nothing on a GPU: to leave it out, its entries would have to be waited for.
    inner = None if on_gpu else stretch.lt(stretches).nonzero().squeeze(1)
    if inner is None:
        codes = forward.codes
    else:
        bag, latents, codes = bag[inner], latents[inner], forward.codes[inner]
    parts, order = entries.sort(bag, latents, (stretches + on_gpu) * entries.tokens, entries.width)
    written, losses = geometry.base(forward.x), []
    for part in geometry.written_by(codes[order], parts).unflatten(0, (-1, entries.tokens))[:stretches]:
        written = written + part
        losses.append(squared_error(written, forward.target))
    return sum(losses, start=reconstruction_loss(forward)) / len(sizes)


def _stretch(geometry: Any, codes: Tensor, start: int, stop: int) -> Tensor | slice:
    """Which latents are from `start` to `stop` in each group of codes (tokens, groups, latents of a group)."""
    if geometry.groups == 1:
        return slice(start, stop)
    import torch

    return torch.arange(geometry.latents, device=codes.device).view(codes.shape[1:])[:, start:stop].flatten()


def _numbers(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _up_to_all(fractions: tuple[float, ...]) -> tuple[float, ...]:
    if wrong := [fraction for fraction in fractions if not 0 < fraction <= 1]:
        raise ValueError(f"{wrong[0]!r} is no share of the latents; each is above 0 and at most 1")
    return tuple(sorted({*fractions, 1.0}))


class Nested(Loss):
    """Matryoshka: the mean of the reconstruction losses of nested dictionaries, each the first latents of the next
    (Bussmann et al. 2025, arXiv 2503.17547, equation 4). The whole dictionary is always one of them."""

    replaces_reconstruction: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True

    kind: Literal["nested"] = "nested"
    matryoshka_prefixes: Annotated[tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_up_to_all)] = Field(
        default=(1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0),
        description="Shares of the latents (of each layer) that must reconstruct alone, such as 0.25 0.5 1; the whole "
        "is always among them.",
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        return nested_loss(geometry, forward, self.sizes(geometry.latents // geometry.groups))

    def sizes(self, latents: int) -> list[int]:
        """How many of a group's latents each prefix holds, in ascending order; a prefix holds at least one."""
        return sorted({max(1, round(share * latents)) for share in self.matryoshka_prefixes})


class NestedSampled(Loss):
    """Matryoshka over prefixes drawn anew at each step, short ones more often (Nabeshima 2024; arXiv 2503.17547,
    appendix): a length is at most m of n with probability (m / n)^0.5. The whole dictionary is always one of them."""

    replaces_reconstruction: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True

    kind: Literal["nested_sampled"] = "nested_sampled"
    matryoshka_sampled: int = Field(
        default=10, gt=0, description="Prefixes of the latents drawn at each step, the whole among them."
    )

    def __call__(self, geometry: Any, sparsity: Any, forward: Forward, progress: Progress) -> Tensor:
        sizes = self.sizes(geometry.latents // geometry.groups, progress.seed, progress.step)
        return nested_loss(geometry, forward, sizes)

    def sizes(self, latents: int, seed: int, step: int) -> list[int]:
        """How many of a group's latents each prefix holds, in ascending order: a pure function of seed and step."""
        drawn = random.Random(f"nested {seed} {step}")
        sizes = {latents}
        while len(sizes) < min(self.matryoshka_sampled, latents):
            sizes.add(max(1, math.ceil(latents * drawn.random() ** (1 / SAMPLING_POWER))))
        return sorted(sizes)
