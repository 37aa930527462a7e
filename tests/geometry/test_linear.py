"""The promises of all linear geometries: exact folds, gradients everywhere, directions of norm 1."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmsae.errors import ExportError
from lmsae.geometry.config import GEOMETRIES, LinearConfig
from lmsae.geometry.geometry import Affine
from lmsae.geometry.linear import Linear
from tests.geometry.filling import generator, noise
from tests.geometry.linear_cases import CASES, applied, case, diagonal, full, undone

MAPS = {"diagonal": diagonal, "matrix": full}


def widths(name: str) -> tuple[int, int]:
    _, reads, writes = CASES[name]
    return sum(reads), sum(writes)


def assert_folds(module: Linear, read: Affine, write: Affine, x: Tensor) -> None:
    """A folded copy has the same pre, and writes the same, in raw activations."""
    folded = deepcopy(module)
    folded.fold(read, write)
    pre = module.encode(applied(read, x))
    torch.testing.assert_close(folded.encode(x), pre, rtol=1e-10, atol=1e-10)
    raw = undone(write, module.decode(pre.relu(), applied(read, x)))
    torch.testing.assert_close(folded.decode(pre.relu(), x), raw, rtol=1e-10, atol=1e-10)


def test_every_linear_geometry_has_a_case() -> None:
    linear = {kind for kind, model in GEOMETRIES.items() if issubclass(model, LinearConfig)}
    assert {config.kind for config, *_ in CASES.values()} == linear


@pytest.mark.parametrize("read_map", MAPS)
@pytest.mark.parametrize("write_map", MAPS)
@pytest.mark.parametrize("name", CASES)
def test_a_fold_leaves_pre_and_the_raw_reconstruction_as_they_were(name: str, read_map: str, write_map: str) -> None:
    d_in, d_out = widths(name)
    assert_folds(case(name), MAPS[read_map](d_in, 1), MAPS[write_map](d_out, 2), noise(6, d_in))


@pytest.mark.parametrize("chosen", MAPS)
@pytest.mark.parametrize("name", [name for name in CASES if len(set(widths(name))) == 1])
def test_a_fold_of_one_map_for_both_sides_is_exact_too(name: str, chosen: str) -> None:
    width = widths(name)[0]
    assert_folds(case(name), MAPS[chosen](width, 1), MAPS[chosen](width, 1), noise(6, width))


@pytest.mark.parametrize("chosen", MAPS)
@pytest.mark.parametrize("name", ["sae", "sae, tied", "sae, gate"])
def test_without_b_enc_a_shift_folds_where_b_dec_is_subtracted_and_both_maps_are_one(name: str, chosen: str) -> None:
    assert_folds(case(name, encoder_bias=False), MAPS[chosen](3, 1), MAPS[chosen](3, 1), noise(6, 3))


@pytest.mark.parametrize("chosen", MAPS)
@pytest.mark.parametrize("name", ["sae, b_dec not subtracted", "transcoder", "skip transcoder", "crosscoder, gate"])
def test_without_b_enc_maps_that_do_not_shift_fold(name: str, chosen: str) -> None:
    d_in, d_out = widths(name)
    read, write = MAPS[chosen](d_in, 1, shifted=False), MAPS[chosen](d_out, 2)
    assert_folds(case(name, encoder_bias=False), read, write, noise(6, d_in))


@pytest.mark.parametrize(("name", "width_out"), [("transcoder", 4), ("sae, b_dec not subtracted", 3), ("sae", 3)])
def test_a_fold_that_needs_the_b_enc_that_is_not_there_is_refused_and_changes_nothing(
    name: str, width_out: int
) -> None:
    module = case(name, encoder_bias=False)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ExportError, match="no b_enc to take up the shift of its input"):
        module.fold(diagonal(3, 1), diagonal(width_out, 2))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@settings(deadline=None)
@given(
    exponents=st.lists(st.floats(-3, 3), min_size=7, max_size=7),
    shifts=st.lists(st.floats(-10, 10), min_size=7, max_size=7),
)
def test_scales_over_six_orders_of_magnitude_fold(exponents: list[float], shifts: list[float]) -> None:
    scale = 10 ** torch.tensor(exponents, dtype=torch.float64)
    shift = torch.tensor(shifts, dtype=torch.float64)
    module = case("skip transcoder")
    folded = deepcopy(module)
    read, write = (Affine(shift[at], scale[at], 1 / scale[at]) for at in (slice(3), slice(3, 7)))
    folded.fold(read, write)
    # Activations of the size that the map brings to 1, as real ones are.
    x = undone(read, noise(6, 3))
    pre = module.encode(noise(6, 3))
    size = (shift[:3].abs() * scale[:3]).max().item() + 1
    torch.testing.assert_close(folded.encode(x), pre, rtol=1e-10, atol=1e-12 * size)
    difference = applied(write, folded.decode(pre, x)) - module.decode(pre, noise(6, 3))
    assert (difference.abs() <= 1e-12 * (size + shift[3:].abs() * scale[3:])).all()


@pytest.mark.parametrize("name", CASES)
def test_folded_norms_leave_outputs_and_bring_every_norm_to_one(name: str) -> None:
    module, folded, x = case(name), case(name), noise(6, widths(name)[0])
    folded.fold_norms()
    norms = module.norms()
    torch.testing.assert_close(folded.norms(), torch.ones_like(norms), rtol=1e-12, atol=0)
    pre = module.encode(x)
    torch.testing.assert_close(folded.encode(x), pre * norms, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        folded.decode(pre.relu() * norms, x), module.decode(pre.relu(), x), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_norms_and_maps_fold_one_after_the_other(name: str) -> None:
    module = case(name)
    module.fold_norms()
    d_in, d_out = widths(name)
    assert_folds(module, full(d_in, 1), full(d_out, 2), noise(6, d_in))


def test_the_norm_of_a_latent_that_writes_nothing_folds_to_zeros() -> None:
    module = case("sae")
    with torch.no_grad():
        module.W_dec[2] = 0
    module.fold_norms()
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert not module.encoder[:, 2].any()
    assert not module.W_dec[2].any()


def test_norms_cannot_be_folded_where_there_is_no_b_enc() -> None:
    with pytest.raises(ExportError, match="no b_enc to multiply by decoder norms"):
        case("sae", encoder_bias=False).fold_norms()


@pytest.mark.parametrize("encoder_bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name: str, encoder_bias: bool) -> None:
    module = case(name, encoder_bias=encoder_bias)
    x = noise(6, widths(name)[0])
    module.decode(module.encode(x).relu(), x).pow(2).sum().backward()
    assert module.b_enc is not None or not encoder_bias
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize("name", CASES)
def test_placed_weights_are_directions_of_the_norm_asked_for_and_zeros(name: str) -> None:
    module, (d_in, d_out) = case(name), widths(name)
    drawn = module.draw(generator(3))
    module.place(drawn, 0.5)
    hook_points = len(CASES[name][2])
    torch.testing.assert_close(module.norms(), torch.full_like(module.norms(), 0.5 * hook_points))
    if d_in == d_out:
        assert torch.equal(module.encoder, module.W_dec.T)
    else:
        torch.testing.assert_close(module.encoder.norm(dim=0), torch.full_like(module.norms(), 0.5))
    others = {key: value for key, value in module.state_dict().items() if key not in ("W_enc", "W_dec")}
    assert {"b_enc", "b_dec"} <= others.keys()
    assert not any(value.any() for value in others.values())


@pytest.mark.parametrize("name", CASES)
def test_a_unit_norm_decoder_keeps_its_norm_whatever_that_of_the_encoder(name: str) -> None:
    module = case(name)
    module.place(module.draw(generator(3)), 0.5, unit_norm_decoder=True)
    hook_points = len(CASES[name][2])
    torch.testing.assert_close(module.norms(), torch.full_like(module.norms(), hook_points))
    if module.W_enc is not None:
        expected = 0.5 * hook_points**0.5 if len(set(widths(name))) == 1 else 0.5
        torch.testing.assert_close(module.W_enc.norm(dim=0), torch.full_like(module.norms(), expected))


def test_the_same_generator_draws_the_same_directions() -> None:
    one, same, other = (case("transcoder").draw(generator(seed)) for seed in (1, 1, 2))
    assert one.keys() == {"W_enc", "W_dec"}
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", CASES)
def test_any_leading_dimensions_will_do(name: str) -> None:
    module, (d_in, d_out) = case(name), widths(name)
    x = noise(6, d_in)
    whole = module.decode(module.encode(x), x)
    deep = x.view(2, 3, d_in)
    torch.testing.assert_close(module.decode(module.encode(deep), deep), whole.view(2, 3, d_out))


def test_maps_are_the_same_where_shift_and_scale_are() -> None:
    one = diagonal(3, 1)
    assert one.equals(diagonal(3, 1))
    assert not one.equals(diagonal(3, 2))
    assert not one.equals(diagonal(3, 1, shifted=False))
    assert not one.equals(full(3, 1))
