"""Sparse codes: the codes of activations that are not 0, as indices and values of each token."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.gathering import CODES_AT_ONCE
from lmsae.kernels.entries import Entries


@dataclass(frozen=True)
class SparseCodes:
    """The codes of tokens (*batch) that are not 0. `entries` says where they are, token by token, and `values` has them
    in the same order."""

    entries: Entries
    values: Float[Tensor, " entries"]
    batch: tuple[int, ...]

    def __len__(self) -> int:
        """The number of codes that are not 0."""
        return len(self.values)

    def l0(self) -> Int[Tensor, "*batch"]:
        """The number of codes of each token."""
        return self.entries.starts.diff().view(self.batch)

    def of(self, *token: int) -> tuple[Int[Tensor, " codes"], Float[Tensor, " codes"]]:
        """The latents and codes of the token at an index of the batch, the strongest first."""
        number = int(torch.arange(math.prod(self.batch)).view(self.batch)[token])
        begin, end = self.entries.starts[number : number + 2].tolist()
        order = self.values[begin:end].abs().argsort(descending=True, stable=True)
        return self.entries.latents[begin:end][order], self.values[begin:end][order]

    def to_dense(self) -> Float[Tensor, "*batch latents"]:
        """All codes, as `encode` gives them."""
        return self.entries.to_dense(self.values).view(*self.batch, self.entries.width)


@torch.inference_mode()
def encode_sparse(dictionary: Dictionary, x: Float[Tensor, "*batch d_in"]) -> SparseCodes:
    """The codes of raw activations that are not 0, computed for some tokens at a time."""
    batch, width = x.shape[:-1], dictionary.geometry.latents
    if dictionary.config.geometry.grain == "context":
        units, tokens = x.reshape(-1, *x.shape[-2:]), x.shape[-2]
    else:
        units, tokens = x.reshape(-1, x.shape[-1]), 1
    starts, latents, values = [torch.zeros(1, dtype=torch.long, device=x.device)], [], []
    for some in units.split(max(1, CODES_AT_ONCE // (width * tokens))):
        codes = dictionary.encode(some).reshape(-1, width)
        entries = Entries.from_mask(codes != 0)
        starts.append(entries.starts[1:] + starts[-1][-1])
        latents.append(entries.latents)
        values.append(entries.gather(codes))
    return SparseCodes(Entries(torch.cat(starts), torch.cat(latents), width), torch.cat(values), tuple(batch))
