"""Normalizers: raw activations to the units of training and back.

Hook points stand side by side in the last dimension, and each is normalized on its own. An output that is not read (a
transcoder's) is unknown at inference. There `dataset` takes the place of the kinds that look at each token.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmsae.dictionary.config import Normalization
from lmsae.errors import ExportError, NotEnoughTokens
from lmsae.geometry.geometry import Affine

Moments = Mapping[str, Tensor]
"""Statistics of one hook point from the norm stage: mean_norm (), mean (width,), variance (width,), in float64."""

VARIANCE_FLOOR = 1e-6
"""Whitening counts a smaller variance as this share of the mean variance. A direction that never varies (the mean over
dimensions of a centered residual stream) would otherwise be rounding noise, blown up to variance 1."""

STEADY = 1e-6
"""Norms and deviations of a token below this count as this: a vector of zeros stays one."""

CHUNK = 8192


class Normalizer(nn.Module, ABC):
    """Activations of all hook points side by side, to training's units and back."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Raw activations in training's units."""

    @abstractmethod
    def restore(
        self, y: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None
    ) -> Float[Tensor, "*batch d"]:
        """A reconstruction in training's units as raw activations. `like` are the raw activations that it stands for,
        where those are read at all; else it is None."""

    @abstractmethod
    def restore_change(
        self, change: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None
    ) -> Float[Tensor, "*batch d"]:
        """The difference of two reconstructions in training's units as one of raw activations."""

    @abstractmethod
    def fit(self, moments: Sequence[Moments], x: Float[Tensor, "tokens d"]) -> None:
        """Take over what was measured at each hook point, and on the raw calibration activations x of all of them."""

    @abstractmethod
    def affine(self) -> Affine:
        """The same as an affine map. Raises ExportError where it is none."""


class Identity(Normalizer):
    """Raw activations as they are."""

    one: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(sum(widths)), persistent=False)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x

    def restore(self, y: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None) -> Tensor:
        del like
        return y

    def restore_change(self, change: Tensor, like: Tensor | None) -> Tensor:
        del like
        return change

    def fit(self, moments: Sequence[Moments], x: Float[Tensor, "tokens d"]) -> None:
        del moments, x

    def affine(self) -> Affine:
        return Affine(torch.zeros_like(self.one), self.one, self.one)


class Scale(Normalizer):
    """One factor a hook point: mean norm sqrt(width) after `fit`, 1 before."""

    scale: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.register_buffer("scale", torch.ones(sum(widths)))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x * self.scale

    def restore(self, y: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None) -> Tensor:
        del like
        return y / self.scale

    def restore_change(self, change: Tensor, like: Tensor | None) -> Tensor:
        del like
        return change / self.scale

    def fit(self, moments: Sequence[Moments], x: Float[Tensor, "tokens d"]) -> None:
        del x
        self.set([math.sqrt(width) / one["mean_norm"].item() for width, one in zip(self.widths, moments, strict=True)])

    @torch.no_grad()
    def set(self, factors: Sequence[float]) -> None:
        """Set each hook point's factor."""
        for part, factor in zip(self.scale.split(self.widths), factors, strict=True):
            part.fill_(factor)

    def affine(self) -> Affine:
        return Affine(torch.zeros_like(self.scale), self.scale, 1 / self.scale)


class PerToken(Normalizer):
    """Each token at each hook point, (x - center) / spread, by its own center and spread: norm sqrt(width)."""

    kind: Normalization

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)

    @abstractmethod
    def statistics(self, x: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        """Center and spread of tokens at one hook point, both (*batch, 1)."""

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        parts = []
        for part in x.split(self.widths, dim=-1):
            center, spread = self.statistics(part)
            parts.append((part - center) / spread)
        return torch.cat(parts, dim=-1)

    def restore(self, y: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None) -> Tensor:
        return torch.cat([part * spread + center for part, center, spread in self._beside(y, like)], dim=-1)

    def restore_change(self, change: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None) -> Tensor:
        return torch.cat([part * spread for part, _, spread in self._beside(change, like)], dim=-1)

    def _beside(self, y: Tensor, like: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The part of y at each hook point, with center and spread of the raw activations there."""
        assert like is not None, "an output that is not read is scaled by `dataset`"
        pairs = zip(y.split(self.widths, dim=-1), like.split(self.widths, dim=-1), strict=True)
        return [(part, *self.statistics(raw)) for part, raw in pairs]

    def fit(self, moments: Sequence[Moments], x: Float[Tensor, "tokens d"]) -> None:
        del moments, x

    def affine(self) -> Affine:
        raise ExportError(
            f"sae.normalize_activations is {self.kind}: every token is divided by a number of its own, which no "
            "weights can take in. Train with dataset, whiten or none for a dictionary that reads raw activations."
        )


class TokenNorm(PerToken):
    """Each token divided by its norm over sqrt(width)."""

    kind = "token"

    def statistics(self, x: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        spread = x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        return torch.zeros_like(spread), spread.clamp(min=STEADY)


class LayerNorm(PerToken):
    """Each token less its mean over dimensions, divided by its standard deviation over them."""

    kind = "layer_norm"

    def statistics(self, x: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        spread, center = torch.std_mean(x, dim=-1, correction=0, keepdim=True)
        return center, spread.clamp(min=STEADY)


class Whiten(Normalizer):
    """(x - mean) C^(-1/2) at each hook point: mean 0 and covariance 1, hence a root mean square norm of sqrt(width).

    C is the covariance over calibration tokens; its symmetric root (ZCA) turns directions as little as can be.
    Variances below VARIANCE_FLOOR of their mean count as that much, so that the map always has an inverse.
    """

    mean: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.register_buffer("mean", torch.zeros(sum(widths)))
        for site, width in enumerate(self.widths):
            self.register_buffer(f"whitening_{site}", torch.eye(width))
            self.register_buffer(f"coloring_{site}", torch.eye(width))

    def _blocks(self, name: str) -> list[Tensor]:
        return [self.get_buffer(f"{name}_{site}") for site in range(len(self.widths))]

    def _by_hook_point(self, x: Tensor, name: str) -> Tensor:
        parts = zip(x.split(self.widths, dim=-1), self._blocks(name), strict=True)
        return torch.cat([part @ block for part, block in parts], dim=-1)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self._by_hook_point(x - self.mean, "whitening")

    def restore(self, y: Float[Tensor, "*batch d"], like: Float[Tensor, "*batch d"] | None) -> Tensor:
        del like
        return self._by_hook_point(y, "coloring") + self.mean

    def restore_change(self, change: Tensor, like: Tensor | None) -> Tensor:
        del like
        return self._by_hook_point(change, "coloring")

    @torch.no_grad()
    def fit(self, moments: Sequence[Moments], x: Float[Tensor, "tokens d"]) -> None:
        """Raises NotEnoughTokens where x has no more tokens than dimensions: some would be without variance."""
        self.mean.copy_(torch.cat([one["mean"] for one in moments]))
        for site, part in enumerate(x.split(self.widths, dim=-1)):
            if len(part) <= part.shape[1]:
                raise NotEnoughTokens(
                    f"whitening activations of width {part.shape[1]} needs more calibration tokens than that, and "
                    f"there are {len(part)}. Raise tokenize.calibration_tokens, or choose another "
                    "sae.normalize_activations."
                )
            variances, directions = torch.linalg.eigh(covariance(part))
            deviations = variances.clamp(min=VARIANCE_FLOOR * variances.mean().item()).sqrt()
            self.get_buffer(f"whitening_{site}").copy_((directions / deviations) @ directions.T)
            self.get_buffer(f"coloring_{site}").copy_((directions * deviations) @ directions.T)

    def affine(self) -> Affine:
        whitening, coloring = (torch.block_diag(*self._blocks(name)) for name in ("whitening", "coloring"))
        return Affine(self.mean, whitening, coloring)


def covariance(x: Float[Tensor, "tokens d"]) -> Float[Tensor, "d d"]:
    """The covariance of tokens around their mean, in float64, without a copy of x in float64."""
    mean = x.mean(0, dtype=torch.float64)
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=x.device)
    for part in x.split(CHUNK):
        centered = part.double() - mean
        total.addmm_(centered.T, centered)
    return total / len(x)


NORMALIZERS: dict[Normalization, type[Normalizer]] = {
    "none": Identity,
    "dataset": Scale,
    "token": TokenNorm,
    "layer_norm": LayerNorm,
    "whiten": Whiten,
}


def build(kind: Normalization, widths: Sequence[int]) -> Normalizer:
    """The normalizer of what is read. Those with statistics change nothing before `fit`."""
    return NORMALIZERS[kind](widths)


def build_for_output(kind: Normalization, widths: Sequence[int], *, is_read: bool) -> Normalizer:
    """The normalizer of what is written: `dataset` for the kinds that would have to look at an output not read."""
    chosen = NORMALIZERS[kind]
    return Scale(widths) if issubclass(chosen, PerToken) and not is_read else chosen(widths)
