"""Random numbers as a pure function of integers: without a state, order, batches and processes cannot change them.

This is the finalizer of splitmix64 (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195), in int64 that wraps
around, on any device.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Mix each integer into 64 bits that look random; equal integers give equal bits."""
    x = (x ^ _shift_right(x, 30)).mul_(_FIRST)
    x = x.bitwise_xor_(_shift_right(x, 27)).mul_(_SECOND)
    return x.bitwise_xor_(_shift_right(x, 31))


def stream_keys(seed: int, purpose: int, count: int) -> Int[Tensor, " count"]:
    """The keys of `count` streams of random numbers. Each purpose has streams of its own."""
    start = mix(mix(torch.tensor(seed)) + purpose)
    return mix(start + _GOLDEN * torch.arange(1, count + 1))


def prefix_hashes(tokens: Int[Tensor, "*batch context"]) -> Int[Tensor, "*batch context"]:
    """A hash of each token, of all tokens before it in its context, and of their positions."""
    positions = mix(torch.arange(1, tokens.shape[-1] + 1, device=tokens.device))
    return mix(mix(tokens.long() ^ positions).cumsum(-1))


def upper_bits(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The upper 32 bits, from 0 to 2**32 - 1."""
    return _shift_right(bits, 32)


def normal_numbers(bits: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard normal numbers, one from each 64 bits (Box and Muller 1958)."""
    radius = (upper_bits(bits).float().add_(1).div_(2**32)).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).float().mul_(2 * math.pi / 2**32)
    return radius.mul_(angle.cos_())


def _shift_right(x: Tensor, by: int) -> Tensor:
    """Shift to the right and bring in zeros. torch's own shift brings in the sign."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)
