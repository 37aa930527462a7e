"""Triton's kernels against float64: in Triton's interpreter on any CPU, and on the GPU where there is one."""

import pytest
import torch
from torch import Tensor

from lmsae.kernels.entries import Entries

kernels = pytest.importorskip("lmsae.kernels.gpu", reason="needs Triton: pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = {"bags of any length": [3, 0, 1, 20, 8, 0], "one long bag": [40], "empty bags": [0, 0], "no bag": []}
WIDTHS = [1, 5, 16, 700]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def entries(lengths: list[int], columns: int) -> Entries:
    """Bags of these lengths, whose columns repeat and stand in no order."""
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    latents = (7 * torch.arange(len(row)) + 3) % columns
    return Entries.from_sorted(row.to(DEVICE), latents.to(DEVICE), len(lengths), columns)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", LENGTHS)
def test_bag_sums_are_those_of_the_dense_product(case: str, width: int) -> None:
    chosen = entries(LENGTHS[case], 13)
    values, rows = random(len(chosen.latents)), random(13, width)
    dense = torch.zeros(chosen.tokens, 13, dtype=torch.float64, device=DEVICE)
    dense.index_put_((chosen.token_index, chosen.latents), values.double(), accumulate=True)
    sums = kernels.sum_bags(chosen.starts, chosen.latents, values, rows)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums.double(), dense @ rows.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", LENGTHS)
def test_entry_dots_are_those_of_the_dense_product(case: str, width: int) -> None:
    chosen = entries(LENGTHS[case], 13)
    x, y = random(chosen.tokens, width), random(13, width)
    dots = kernels.dot_entries(chosen.token_index, chosen.latents, x, y)
    wanted = (x.double() @ y.double().T)[chosen.token_index, chosen.latents]
    torch.testing.assert_close(dots.double(), wanted, rtol=1e-5, atol=1e-5)
