"""The codes of one forward pass as one value, whether all of (tokens, latents) or few entries of it are computed.

The two ways compute the same, each by the algorithm that is fast for it. They are told apart here and nowhere else.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lmsae.geometry.geometry import Chosen, EntrywiseGeometry, Geometry
from lmsae.kernels.entries import Entries
from lmsae.kernels.precision import widen

STEADY = 1e-12


@dataclass(frozen=True)
class Codes(ABC):
    """Codes, and what losses ask of them.

    `values`, and `pre` of the same latents, have one shape: (tokens, latents) of DenseCodes, (entries,) of EntryCodes.
    Methods take and give tensors "in the shape of codes", which is this one. `pre` is what latents are selected by:
    with `norms_in_pre` it is multiplied by decoder norms already, and `values` never are. Values below 0 are there only
    if `signed`.
    """

    values: Tensor
    pre: Tensor
    norms_in_pre: bool
    signed: bool

    @property
    @abstractmethod
    def latents(self) -> Tensor | None:
        """The latent of each value, for activation functions; None where values are (tokens, latents)."""

    @property
    def magnitudes(self) -> Tensor:
        """|codes| in float32 or better, with slope 1 at 0 where codes have no signs. That of abs is 0 there, and the
        straight-through estimator of jumprelu would lose what latents just below their threshold have to say."""
        return widen(self.values).abs() if self.signed else widen(self.values)

    @abstractmethod
    def spread(self, per_latent: Tensor) -> Tensor:
        """A number of each latent (latents,), to be multiplied by something in the shape of codes."""

    @abstractmethod
    def average(self, values: Tensor) -> Tensor:
        """The mean over tokens of the sum over latents of something in the shape of codes."""

    @abstractmethod
    def average_weighted(self, values: Tensor, per_latent: Tensor) -> Tensor:
        """`average` of values in the shape of codes, each times a number of its latent (latents,)."""

    @abstractmethod
    def find_fired(self) -> Tensor:
        """True for latents that have a code anywhere (latents,)."""

    @abstractmethod
    def decode(self, geometry: Geometry, values: Tensor, x: Tensor) -> Tensor:
        """The reconstruction (tokens, d_out) by other values, in the shape of codes."""

    @abstractmethod
    def write_stretches(self, geometry: Geometry, x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        """The outputs (tokens, d_out) of the first sizes[0] latents of each group, of the next up to sizes[1], and so
        on; not of the last stretch. `sizes` ascend, and the last is the whole group."""

    @abstractmethod
    def write_chosen(self, geometry: Geometry, x: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
        """The output (tokens, d_out) of other latents than those with codes: of each token's `chosen` (tokens, k) among
        the numbers of `candidates`, with ReLU(pre) for codes, or pre where codes have signs."""

    def write_entries(self, geometry: Geometry, x: Tensor, entries: Entries) -> Tensor:
        """The output (tokens, d_out) of other entries than those with codes, by `write_chosen`'s rule."""
        pre = _require_entrywise(geometry).encode_at(x, entries)
        if self.norms_in_pre:
            pre = pre * geometry.norms()[entries.latents]
        selected = pre if self.signed else pre.relu()
        return _require_entrywise(geometry).write_at(self.to_codes(selected, geometry, entries.latents), entries)

    def to_codes(self, selected: Tensor, geometry: Geometry, latents: Chosen | None = None) -> Tensor:
        """Something in the units of `pre` in the units of codes; in their shape, or (tokens, latents) of these."""
        if not self.norms_in_pre:
            return selected
        if latents is None:
            latents = slice(None) if self.latents is None else self.latents
        return selected / geometry.norms()[latents].clamp(min=STEADY)

    def to_sizes(self, selected: Tensor, geometry: Geometry) -> Tensor:
        """Something in the units of `pre`, in the shape of codes, times decoder norms, once."""
        return selected if self.norms_in_pre else selected * self.spread(geometry.norms())


@final
@dataclass(frozen=True)
class DenseCodes(Codes):
    """All codes, (tokens, latents)."""

    @property
    def latents(self) -> None:
        return None

    def spread(self, per_latent: Tensor) -> Tensor:
        return per_latent

    def average(self, values: Tensor) -> Tensor:
        return values.mean(0).sum()

    def average_weighted(self, values: Tensor, per_latent: Tensor) -> Tensor:
        return (values.mean(0) * per_latent).sum()

    def find_fired(self) -> Tensor:
        # On floating-point numbers `any` takes twice the time of a maximum.
        return (self.values.abs() if self.signed else self.values).amax(0) > 0

    def decode(self, geometry: Geometry, values: Tensor, x: Tensor) -> Tensor:
        return geometry.decode(values, x)

    def write_stretches(self, geometry: Geometry, x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        starts, stops = [0, *sizes[:-1]], sizes[:-1]
        codes = self.values.unflatten(-1, (geometry.groups, -1))
        # One split, not a slice a stretch: its gradient is one concatenation.
        parts = codes.split([b - a for a, b in zip(starts, sizes, strict=True)], dim=-1)
        for part, start, stop in zip(parts, starts, stops, strict=False):
            yield geometry.write(part.flatten(-2), self._number_stretch(geometry, start, stop), x)

    def _number_stretch(self, geometry: Geometry, start: int, stop: int) -> Chosen:
        """The numbers of the latents from `start` to `stop` of each group."""
        if geometry.groups == 1:
            return slice(start, stop)
        numbers = torch.arange(geometry.latents, device=self.values.device).view(geometry.groups, -1)
        return numbers[:, start:stop].flatten()

    def write_chosen(self, geometry: Geometry, x: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
        pre = self.pre[..., candidates]
        positive = pre if self.signed else pre.relu()
        selected = pre.new_zeros(pre.shape).scatter(-1, chosen, positive.gather(-1, chosen))
        return geometry.write(self.to_codes(selected, geometry, candidates), candidates, x)


@final
@dataclass(frozen=True)
class EntryCodes(Codes):
    """Codes at few entries of (tokens, latents), (entries,); all others are 0, and so is what is learned from them."""

    entries: Entries

    @property
    def latents(self) -> Tensor:
        return self.entries.latents

    def spread(self, per_latent: Tensor) -> Tensor:
        return per_latent.index_select(0, self.latents)

    def average(self, values: Tensor) -> Tensor:
        return values.sum() / self.entries.tokens

    def average_weighted(self, values: Tensor, per_latent: Tensor) -> Tensor:
        return self.average(values * self.spread(per_latent))

    def find_fired(self) -> Tensor:
        return self.entries.active_latents(self.values)

    def decode(self, geometry: Geometry, values: Tensor, x: Tensor) -> Tensor:
        return _require_entrywise(geometry).decode_at(values, self.entries, x)

    def write_stretches(self, geometry: Geometry, x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        """All stretches are written in one go: every token has one row for each."""
        del x
        stretches, entries, latents, codes = len(sizes) - 1, self.entries, self.latents, self.values
        if not stretches:
            return
        ends = torch.tensor(sizes, pin_memory=latents.is_cuda).to(latents.device, non_blocking=True)
        stretch = torch.bucketize(latents % (geometry.latents // geometry.groups), ends, right=True)
        row = stretch * entries.tokens + entries.token_index
        # A GPU writes the last stretch too, for nothing: to leave it out is to wait for the number of its entries.
        if not latents.is_cuda:
            inner = stretch.lt(stretches).nonzero().squeeze(1)
            row, latents, codes = row[inner], latents[inner], codes[inner]
        rows = (stretches + latents.is_cuda) * entries.tokens
        parts, order = Entries.sort(row, latents, rows, entries.width)
        written = _require_entrywise(geometry).write_at(codes[order], parts).unflatten(0, (-1, entries.tokens))
        yield from written[:stretches]

    def write_chosen(self, geometry: Geometry, x: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
        """Without a product of all candidates."""
        return self.write_entries(geometry, x, Entries.from_latents(candidates[chosen], geometry.latents))


def _require_entrywise(geometry: Geometry) -> EntrywiseGeometry:
    assert isinstance(geometry, EntrywiseGeometry), "a pass at entries is made for such geometries alone"
    return geometry
