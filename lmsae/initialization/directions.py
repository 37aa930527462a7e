"""Directions that decoder rows start in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lmsae.dictionary.normalizer import covariance
from lmsae.initialization.config import InitConfig


@dataclass(frozen=True, slots=True)
class HookPoint:
    """The material of rows at one hook point: random directions (latents, width) of norm 1, centered targets
    (tokens, width), and which of the targets each latent is given (latents,)."""

    random: Tensor
    targets: Tensor
    given: Tensor
    init: InitConfig
    generator: torch.Generator


def draw_unit(at: HookPoint) -> Tensor:
    """Uniform on the sphere."""
    return at.random


def draw_kaiming(at: HookPoint) -> Tensor:
    """Uniform in the cube whose points have a mean square of 1: norms as they fall (He et al. 2015)."""
    return (2 * torch.rand(at.random.shape, generator=at.generator) - 1) * (3 / at.random.shape[1]) ** 0.5


def draw_uniform(at: HookPoint) -> Tensor:
    """Uniform in the cube, then brought to norm 1."""
    return normalize(draw_kaiming(at), dim=1)


def blend_datapoints(at: HookPoint) -> Tensor:
    """Directions of targets, blended with random ones."""
    blend = at.init.datapoint_blend
    return normalize(blend * normalize(at.targets[at.given].cpu(), dim=1) + (1 - blend) * at.random, dim=1)


def draw_in_active_subspace(at: HookPoint) -> Tensor:
    """Random directions within the span of the targets' leading principal directions."""
    width = at.random.shape[1]
    rank = min(at.init.subspace_rank or max(1, width // 2), width)
    principal = torch.linalg.eigh(covariance(at.targets)).eigenvectors[:, -rank:].float().cpu()
    return normalize(torch.randn(len(at.random), rank, generator=at.generator) @ principal.T, dim=1)


def take_principal(at: HookPoint) -> Tensor:
    """The principal directions of the targets, by falling variance, each with its opposite behind it: of any target one
    of the two has a positive pre-activation, which is all of its part in that direction."""
    principal = torch.linalg.eigh(covariance(at.targets)).eigenvectors.flip(1).T.float().cpu()
    return torch.stack([principal, -principal], dim=1).flatten(0, 1)[: len(at.random)]


DRAWS: dict[str, Callable[[HookPoint], Tensor]] = {
    "unit": draw_unit,
    "uniform": draw_uniform,
    "kaiming": draw_kaiming,
    "datapoint": blend_datapoints,
    "active_subspace": draw_in_active_subspace,
    "pca": take_principal,
}


def redraw(
    drawn: Mapping[str, Tensor], targets: Tensor, widths: Sequence[int], init: InitConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The directions that a geometry has drawn, with decoder rows (latents, ...) of the kind that `init` asks for.

    `targets` (tokens, d_out) are centered, `widths` those of the hook points written. Rows narrower than d_out write
    the last hook points (later layers of a cross-layer transcoder). The norm of each row at each hook point stays.
    """
    if init.decoder_init == "unit":
        return dict(drawn)
    made = dict(drawn)
    for name, rows in drawn.items():
        if name.startswith("W_dec"):
            written = list(widths)
            while sum(written) > rows.shape[1]:
                written.pop(0)
            given = torch.randint(len(targets), (len(rows),), generator=generator)
            parts = zip(rows.split(written, dim=1), targets[:, -rows.shape[1] :].split(written, dim=1), strict=True)
            made[name] = torch.cat([_redraw_at(row, y, given, init, generator) for row, y in parts], dim=1)
    return made


def _redraw_at(rows: Tensor, targets: Tensor, given: Tensor, init: InitConfig, generator: torch.Generator) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True)
    return norms * DRAWS[init.decoder_init](HookPoint(rows / norms, targets, given, init, generator))
