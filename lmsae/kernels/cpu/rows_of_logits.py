"""Losses of rows of logits: the cross-entropy of a token, and the divergence from other rows.

Logits are float32, and what is computed from them is float64. A row is read from memory once: its largest logit is
found first, and its exponentials are summed while the row is still in a cache. They are polynomials, which the compiler
turns into vector instructions.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.kernels.cpu.choosing import ALL_BUT_SIGN, LOWEST, NEGATIVE_NANS, key_of
from lmsae.kernels.cpu.instructions import as_float32, as_float64
from lmsae.kernels.cpu.threads import compile_loop, share_among_threads

NO_SHIFT = np.int32(0)
LEAST = -700.0
"""The exponential of less is taken for that of this: 1e-304."""
LOG2_E, LN_2 = 1 / math.log(2), math.log(2)
BIAS, MANTISSA_BITS = np.int64(1023), np.int64(52)


def can_read_logits(logits: Tensor) -> bool:
    """True if these kernels can read such logits."""
    return logits.device.type == "cpu"


def losses_of_rows(
    logits: Float[Tensor, "rows vocab"],
    following: Int[Tensor, " rows"],
    clean: Float[Tensor, "rows vocab"] | None = None,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Two losses of each row of logits, in nats and float64: -log_softmax(logits) at the token that follows, and
    KL(clean || logits) = sum of softmax(clean) * (log_softmax(clean) - log_softmax(logits)), 0 without clean logits.

    Logits of any float type are read as float32. A clean logit of -inf adds nothing to the divergence. A row with NaN
    or inf gives NaN.
    """
    rows, vocab = logits.shape
    read = logits.detach().float().contiguous()
    other = read if clean is None else clean.detach().float().contiguous()
    found = torch.empty(2, rows, dtype=torch.float64)
    arrays = read.numpy(), other.numpy(), following.numpy(), found.numpy()
    share_among_threads(rows, rows * vocab, lambda start, stop: _losses_of_rows(*arrays, start, stop))
    return found[0], found[1]


@compile_loop
def _largest(values):
    """The largest of float32 values; NaN if there is one."""
    bits, key = values.view(np.int32), LOWEST
    for i in range(bits.size):
        key = max(key, key_of(bits[i], NO_SHIFT))
    back = np.int32(key + NEGATIVE_NANS)
    return np.float64(as_float32(np.int32(back ^ ((back >> np.int32(31)) & ALL_BUT_SIGN))))


@compile_loop
def _exp(x):
    """exp(x) for x <= 0, to 1e-11 of it: 2^n, by the bits of its exponent, times a polynomial of the rest."""
    x = x if x > LEAST else LEAST
    n = np.floor(x * LOG2_E + 0.5)
    r = x - n * LN_2
    power = as_float64((np.int64(n) + BIAS) << MANTISSA_BITS)
    rest = 1 / 362880
    rest = rest * r + 1 / 40320
    rest = rest * r + 1 / 5040
    rest = rest * r + 1 / 720
    rest = rest * r + 1 / 120
    rest = rest * r + 1 / 24
    rest = rest * r + 1 / 6
    rest = rest * r + 1 / 2
    rest = rest * r + 1
    return (rest * r + 1) * power


@compile_loop
def _losses_of_rows(logits, clean, following, into, start, stop):
    for row in range(start, stop):
        values, others = logits[row], clean[row]
        top, other_top = _largest(values), _largest(others)
        if not (abs(top) < np.inf and abs(other_top) < np.inf):
            into[:, row] = np.nan
            continue
        total, weights, weighted = 0.0, 0.0, 0.0
        for i in range(values.size):
            value, other = np.float64(values[i]), np.float64(others[i])
            weight = _exp(other - other_top)
            total += _exp(value - top)
            weights += weight
            weighted += weight * (other - value) if other > -np.inf else 0.0
        log_total = top + np.log(total)
        into[0, row] = log_total - np.float64(values[following[row]])
        into[1, row] = weighted / weights + log_total - (other_top + np.log(weights))
