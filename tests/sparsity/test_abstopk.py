"""AbsTopK: the largest by size, whatever their sign."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmsae import sparsity
from lmsae.sparsity.config import AbsTopKConfig, TopKConfig

FLOATS = st.floats(-4, 4, width=32)
PRES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOATS | st.just(0.5))


@settings(deadline=None)
@given(pre=PRES, k=st.integers(1, 9))
def test_it_keeps_the_k_largest_sizes_of_each_token_with_their_signs(pre: np.ndarray, k: int) -> None:
    codes = sparsity.build(AbsTopKConfig(k=k), pre.shape[1])(torch.from_numpy(pre)).numpy()
    assert ((codes == pre) | (codes == 0)).all()
    largest = np.sort(np.abs(pre), 1)[:, ::-1][:, :k]
    np.testing.assert_array_equal(np.sort(np.abs(codes), 1)[:, ::-1][:, :k], largest)
    assert ((codes != 0).sum(1) <= k).all()


@settings(deadline=None)
@given(pre=PRES, k=st.integers(1, 9))
def test_where_nothing_is_negative_it_is_topk(pre: np.ndarray, k: int) -> None:
    sizes = torch.from_numpy(np.abs(pre))
    codes = [sparsity.build(config, pre.shape[1])(sizes) for config in (AbsTopKConfig(k=k), TopKConfig(k=k))]
    assert torch.equal(*codes)


def test_gradients_reach_what_was_kept_and_nothing_else() -> None:
    pre = torch.tensor([[-3.0, 1.0, -0.5, 2.0]], requires_grad=True)
    (sparsity.build(AbsTopKConfig(k=2), 4)(pre) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert pre.grad is not None
    assert pre.grad.tolist() == [[1, 0, 0, 4]]
