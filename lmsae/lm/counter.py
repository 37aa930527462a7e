"""Random numbers as a pure function of integers: no state, so order, batches and processes cannot change them.

splitmix64's finalizer (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195), in int64 that wraps around, on any
device.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mixed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """64 bits that look random for each integer, and equal ones for equal integers."""
    x = (x ^ _shifted(x, 30)).mul_(_FIRST)
    x = x.bitwise_xor_(_shifted(x, 27)).mul_(_SECOND)
    return x.bitwise_xor_(_shifted(x, 31))


def keys(seed: int, purpose: int, count: int) -> Int[Tensor, " count"]:
    """The keys of `count` streams of random numbers; each purpose has streams of its own."""
    start = mixed(mixed(torch.tensor(seed)) + purpose)
    return mixed(start + _GOLDEN * torch.arange(1, count + 1))


def prefix_hashes(tokens: Int[Tensor, "*batch context"]) -> Int[Tensor, "*batch context"]:
    """A hash of each token and all before it in its context, and of their positions."""
    positions = mixed(torch.arange(1, tokens.shape[-1] + 1, device=tokens.device))
    return mixed(mixed(tokens.long() ^ positions).cumsum(-1))


def high(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The upper 32 bits, from 0 to 2**32 - 1."""
    return _shifted(bits, 32)


def normal(bits: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard normal numbers, one from each 64 bits (Box and Muller 1958)."""
    radius = (high(bits).float().add_(1).div_(2**32)).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).float().mul_(2 * math.pi / 2**32)
    return radius.mul_(angle.cos_())


def _shifted(x: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros; torch's own brings in the sign."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)
