"""GroupMax: one latent of each group of neighbors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmsae import sparsity
from lmsae.errors import ShapeError
from lmsae.sparsity.config import GroupMaxConfig


@settings(deadline=None)
@given(data=st.data(), k=st.integers(1, 4), size=st.integers(1, 4))
def test_of_each_group_the_largest_positive_value_is_kept(data: st.DataObject, k: int, size: int) -> None:
    pre = data.draw(hnp.arrays(np.float32, (5, k * size), elements=st.floats(-3, 3, width=32), unique=True))
    codes = sparsity.build(GroupMaxConfig(k=k), k * size)(torch.from_numpy(pre)).numpy()
    expected = np.zeros_like(pre)
    for token in range(len(pre)):
        for start in range(0, k * size, size):
            best = start + int(np.argmax(pre[token, start : start + size]))
            expected[token, best] = max(pre[token, best], 0)
    np.testing.assert_array_equal(codes, expected)


@settings(deadline=None)
@given(pre=hnp.arrays(np.float32, (4, 6), elements=st.floats(-3, 3, width=32)))
def test_groups_of_one_are_relu(pre: np.ndarray) -> None:
    codes = sparsity.build(GroupMaxConfig(k=6), 6)(torch.from_numpy(pre))
    assert torch.equal(codes, torch.from_numpy(pre).relu())


def test_gradients_reach_the_largest_and_nothing_else() -> None:
    pre = torch.tensor([[3.0, 1.0, -0.5, -2.0]], requires_grad=True)
    (sparsity.build(GroupMaxConfig(k=2), 4)(pre) * torch.tensor([5.0, 2.0, 3.0, 4.0])).sum().backward()
    assert pre.grad is not None
    assert pre.grad.tolist() == [[5, 0, 0, 0]]


@pytest.mark.parametrize(("k", "groups"), [(4, 1), (7, 1), (2, 2)])
def test_groups_must_be_equal(k: int, groups: int) -> None:
    with pytest.raises(ShapeError, match=f"k = {k} does not divide {6 // groups} latents"):
        sparsity.build(GroupMaxConfig(k=k), 6, groups)
