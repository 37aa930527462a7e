"""Mixtures of linear transforms against explicit d x d matrices in float64, and how ranks are shared out."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae import geometry
from lmsae.errors import ExportError, ShapeError
from lmsae.geometry.config import MOLTConfig, TranscoderConfig, Widths
from lmsae.geometry.geometry import Affine, Geometry
from tests.geometry.filling import (
    assert_all_parameters_learn,
    assert_close,
    assert_norms_fold_exactly,
    assert_only_chosen_write,
    filled,
    generator,
    noise,
    weights,
)
from tests.geometry.linear_cases import applied, diagonal, full, undone

RANKS = MOLTConfig(molt_ranks=("3x1", "2x2", "1x4"))
READ, WRITTEN, N = 5, 4, 7
X = noise(6, READ)


def molt(*, encoder_bias: bool = True) -> Geometry:
    return filled(RANKS, [READ], [WRITTEN], N, encoder_bias=encoder_bias)


def matrices(module: Geometry) -> list[np.ndarray]:
    """U_i V_i (d_out, d_in) of each latent."""
    w = weights(module)
    return [U.T @ V for g in range(3) for U, V in zip(w[f"U.{g}"], w[f"V.{g}"], strict=True)]


def test_ranks_stand_in_the_order_given() -> None:
    assert [np.linalg.matrix_rank(matrix) for matrix in matrices(molt())] == [3, 2, 2, 1, 1, 1, 1]


def test_pre_is_the_input_times_the_encoder() -> None:
    module = molt()
    w = weights(module)
    assert_close(module.encode(X), X.numpy() @ w["W_enc"] + w["b_enc"])


def test_each_code_multiplies_a_linear_map_of_the_input() -> None:
    module, codes = molt(), noise(6, N, seed=2)
    wanted = np.tile(weights(module)["b_dec"], (6, 1))
    for i, matrix in enumerate(matrices(module)):
        wanted += codes.numpy()[:, [i]] * (X.numpy() @ matrix.T)
    assert_close(module.decode(codes, X), wanted)


def test_a_norm_is_the_frobenius_norm_of_the_transform() -> None:
    module = molt()
    assert_close(module.norms(), np.array([np.linalg.norm(matrix, "fro") for matrix in matrices(module)]))


def test_norms_of_transforms_that_are_zero_have_a_gradient() -> None:
    module = geometry.build(RANKS, Widths(reads=(READ,), writes=(WRITTEN,)), N)
    module.norms().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert (module.norms() < 1e-15).all()


def test_norms_are_not_rough_under_autocast() -> None:
    module = filled(RANKS, [READ], [WRITTEN], N, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norms = module.norms()
    assert norms.dtype == torch.float32
    assert torch.equal(norms, module.norms())


@given(st.permutations(range(N)), st.integers(0, N))
def test_chosen_latents_write_what_they_write_among_all(order: list[int], count: int) -> None:
    assert_only_chosen_write(molt(), torch.tensor(order[:count], dtype=torch.long), X)


BOUND = st.none() | st.integers(-N - 1, N + 1)


@given(BOUND, BOUND, st.none() | st.integers(1, 3))
def test_a_stretch_of_latents_writes_what_it_writes_among_all(
    start: int | None, stop: int | None, step: int | None
) -> None:
    assert_only_chosen_write(molt(), slice(start, stop, step), X)


def test_batches_have_any_number_of_dimensions() -> None:
    module, codes = molt(), noise(6, N, seed=2)
    whole = module.decode(codes, X).detach()
    assert_close(module.decode(codes.view(2, 3, -1), X.view(2, 3, -1)).view(6, -1), whole)
    assert_close(module.decode(codes[0], X[0]), whole[0])


def test_gradients_reach_every_parameter() -> None:
    assert_all_parameters_learn(molt(), X)


def test_transforms_that_read_a_constant_1_are_a_transcoder_bit_for_bit() -> None:
    module = filled(MOLTConfig(molt_ranks=("1x1",)), [READ], [WRITTEN], N, dtype=torch.float32)
    plain = filled(TranscoderConfig(), [READ], [WRITTEN], N, dtype=torch.float32)
    with torch.no_grad():
        reading, writing = module.get_parameter("V.0"), module.get_parameter("U.0")
        reading.zero_()
        reading[:, 0, 0] = 1
        plain.get_parameter("W_dec").copy_(writing[:, 0])
    x = X.float()
    x[:, 0] = 1
    codes = plain.encode(x).relu()
    assert torch.equal(module.encode(x).relu(), codes)
    assert torch.equal(module.decode(codes, x), plain.decode(codes, x))


@pytest.mark.parametrize("unit", [True, False])
def test_drawn_transforms_have_the_norm_that_is_asked_for(unit: bool) -> None:
    module = geometry.build(RANKS, Widths(reads=(READ,), writes=(WRITTEN,)), N)
    module.place(module.draw(generator()), 0.3, unit_norm_decoder=unit)
    np.testing.assert_allclose(module.norms().detach(), 1 if unit else 0.3, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(weights(module)["W_enc"], axis=0), 0.3, rtol=1e-5)


@pytest.mark.parametrize("read", [diagonal(READ, 3, shifted=False), full(READ, 3, shifted=False)], ids=["d", "dxd"])
@pytest.mark.parametrize("write", [diagonal(WRITTEN, 4), full(WRITTEN, 4)], ids=["d", "dxd"])
@pytest.mark.parametrize("encoder_bias", [True, False])
def test_folding_leaves_pre_and_outputs_as_they_are(read: Affine, write: Affine, encoder_bias: bool) -> None:
    module = molt(encoder_bias=encoder_bias)
    pre = module.encode(applied(read, X)).detach()
    reconstruction = undone(write, module.decode(pre, applied(read, X)).detach())
    module.fold(read, write)
    assert_close(module.encode(X), pre)
    assert_close(module.decode(pre, X), reconstruction)


def test_a_shift_of_the_input_cannot_be_folded() -> None:
    module = molt()
    before = weights(molt())
    with pytest.raises(ExportError, match="shift of the input"):
        module.fold(diagonal(READ, 3), diagonal(WRITTEN, 4))
    assert all(np.array_equal(value, before[name]) for name, value in weights(module).items())


@pytest.mark.parametrize("encoder_bias", [True, False])
def test_norms_fold_into_the_encoder(encoder_bias: bool) -> None:
    assert_norms_fold_exactly(molt(encoder_bias=encoder_bias), X)


SHARES = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 50)), min_size=1, max_size=6, unique_by=lambda p: p[0])


@given(SHARES, st.integers(1, 5000))
def test_transforms_are_shared_out_by_largest_remainder(shares: list[tuple[int, int]], d_sae: int) -> None:
    config = MOLTConfig(molt_ranks=tuple(f"{rank}x{share}" for rank, share in shares))
    found = dict(config.transforms(d_sae))
    total = sum(share for _, share in shares)
    assert sum(found.values()) == d_sae
    left_over = {}
    for rank, share in shares:
        wanted = Fraction(d_sae * share, total)
        count = found.get(rank, 0)
        assert count in (int(wanted), int(wanted) + 1)
        left_over[rank] = (count - int(wanted), wanted - int(wanted))
    got = [remainder for extra, remainder in left_over.values() if extra]
    lost = [remainder for extra, remainder in left_over.values() if not extra]
    assert min(got, default=1) >= max(lost, default=0)


def test_a_sum_of_all_shares_is_split_as_written() -> None:
    assert MOLTConfig().transforms(15) == ((64, 1), (32, 2), (16, 4), (8, 8))
    assert MOLTConfig().transforms(7) == ((32, 1), (16, 2), (8, 4))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("64",), "'64' is not RANKxSHARE"),
        (("0x3",), "'0x3' is not RANKxSHARE"),
        (("8x1", "16x1", "8x2"), "rank 8 is named more than once"),
        ((), "at least 1"),
    ],
)
def test_words_that_are_no_ranks_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MOLTConfig(molt_ranks=words)


def test_ranks_above_a_width_are_refused() -> None:
    with pytest.raises(ShapeError, match="molt_ranks 64, 32 cannot be: between widths 40 and 24 a rank is 24 at most"):
        geometry.build(MOLTConfig(), Widths(reads=(40,), writes=(24,)), 15)
