"""Matching: which latents of one dictionary another one has, too, by the directions that they write."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.metrics.definitions import SAME

CHUNK = 1024
MOST_PARTNERS = 64
"""Of a latent, the partners that it may have. More are there only where a dictionary has one direction many times."""


@dataclass(frozen=True, slots=True)
class Matching:
    """The latents of two dictionaries that are each other's, one to one: their numbers and cosines; and the mean over
    the latents of both of the largest cosine to any latent of the other."""

    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    cosines: Float[np.ndarray, " pairs"]
    mean_max_cosine: float
    latents: int

    @property
    def share(self) -> float:
        """The share of the latents of both dictionaries that have a partner."""
        return 2 * len(self.first) / self.latents


def match_latents(first: Float[Tensor, "m d_out"], second: Float[Tensor, "n d_out"]) -> Matching:
    """Match decoder rows one to one, such that the sum of cosines is the largest, among pairs of a cosine of at least
    SAME.

    An assignment of all latents costs (m + n)^3. Pairs below SAME say nothing, and without them the latents fall apart
    into small groups of which none has a pair with another. So each group is assigned for itself, and the result is the
    same as if all pairs of at least SAME were assigned at once. The products of all rows remain: m * n * d_out.
    """
    a, b = (torch.nn.functional.normalize(rows.float(), dim=1) for rows in (first, second))
    best_of_b = torch.full((len(b),), -1.0)
    best_of_a, edges = [], []
    for start in range(0, len(a), CHUNK):
        cosines = a[start : start + CHUNK] @ b.T
        best_of_b = torch.maximum(best_of_b, cosines.amax(0))
        values, partners = cosines.topk(min(MOST_PARTNERS, len(b)), dim=1)
        best_of_a.append(values[:, 0])
        rows, places = (values >= SAME).nonzero(as_tuple=True)
        edges.append((rows + start, partners[rows, places], values[rows, places]))
    i, j, cosine = (torch.cat(side).numpy() for side in zip(*edges, strict=True))
    chosen = _assign(i, j, cosine.astype(np.float64), len(a), len(b))
    mean_max = (torch.cat(best_of_a).double().sum() + best_of_b.double().sum()) / (len(a) + len(b))
    return Matching(i[chosen], j[chosen], cosine[chosen], float(mean_max), len(a) + len(b))


def _assign(i: np.ndarray, j: np.ndarray, cosine: np.ndarray, m: int, n: int) -> np.ndarray:
    """The numbers of those pairs (i, j) that are chosen, no i and no j twice, with the largest sum of cosines."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(coo_array((np.ones(len(i)), (i, m + j)), shape=(m + n, m + n)), directed=False)
    order = np.argsort(group[i], kind="stable")
    chosen = []
    for pairs in np.split(order, np.flatnonzero(np.diff(group[i][order])) + 1):
        if len(pairs) == 1:
            chosen.append(pairs)
        elif len(pairs):
            rows, row = np.unique(i[pairs], return_inverse=True)
            columns, column = np.unique(j[pairs], return_inverse=True)
            gain, number = np.zeros((len(rows), len(columns))), np.full((len(rows), len(columns)), -1)
            gain[row, column], number[row, column] = cosine[pairs], pairs
            found = number[linear_sum_assignment(gain, maximize=True)]
            chosen.append(found[found >= 0])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=int)
