"""The cross-layer transcoder against its formula in float64, and against the transcoder that it is with one layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsae import geometry
from lmsae.errors import ExportError, ShapeError
from lmsae.geometry.config import CLTConfig, TranscoderConfig, Widths
from lmsae.geometry.geometry import Affine, Geometry
from tests.geometry.filling import (
    assert_all_parameters_learn,
    assert_close,
    assert_norms_fold_exactly,
    assert_only_chosen_write,
    filled,
    generator,
    noise,
    side_by_side,
    weights,
)
from tests.geometry.linear_cases import applied, diagonal, full, undone

LAYERS, READ, WRITTEN, N = 3, 3, 2, 4
LATENTS = LAYERS * N
X = noise(5, LAYERS * READ)


def clt(*, encoder_bias: bool = True) -> Geometry:
    return filled(CLTConfig(), [READ] * LAYERS, [WRITTEN] * LAYERS, N, encoder_bias=encoder_bias)


def decoder(w: dict[str, np.ndarray], source: int, target: int) -> np.ndarray:
    """W_dec[source -> target] (n, width)."""
    return w[f"W_dec.{source}"][:, (target - source) * WRITTEN : (target - source + 1) * WRITTEN]


@pytest.mark.parametrize("encoder_bias", [True, False])
def test_each_layer_reads_its_own_hook_point(encoder_bias: bool) -> None:
    module = clt(encoder_bias=encoder_bias)
    w = weights(module)
    b_enc = w.get("b_enc", np.zeros(LATENTS))
    pre = [X.numpy()[:, j * READ : (j + 1) * READ] @ w["W_enc"][j] for j in range(LAYERS)]
    assert_close(module.encode(X), np.concatenate(pre, axis=1) + b_enc)
    assert module.groups == LAYERS
    assert module.latents == LATENTS


def test_each_layer_is_written_by_the_latents_of_itself_and_all_earlier_layers() -> None:
    module = clt()
    w, codes = weights(module), noise(5, LATENTS, seed=2)
    wanted = np.tile(w["b_dec"], (5, 1))
    for target in range(LAYERS):
        for source in range(target + 1):
            f = codes.numpy()[:, source * N : (source + 1) * N]
            wanted[:, target * WRITTEN : (target + 1) * WRITTEN] += f @ decoder(w, source, target)
    assert_close(module.decode(codes, X), wanted)


def test_a_norm_is_that_of_all_rows_of_a_latent_together() -> None:
    module = clt()
    w = weights(module)
    wanted = [
        sum(np.sum(decoder(w, j, target)[i] ** 2) for target in range(j, LAYERS)) ** 0.5
        for j in range(LAYERS)
        for i in range(N)
    ]
    assert_close(module.norms(), np.array(wanted))


@given(st.permutations(range(LATENTS)), st.integers(0, LATENTS))
def test_chosen_latents_write_what_they_write_among_all(order: list[int], count: int) -> None:
    assert_only_chosen_write(clt(), torch.tensor(order[:count], dtype=torch.long), X)


BOUND = st.none() | st.integers(-LATENTS - 1, LATENTS + 1)


@given(BOUND, BOUND, st.none() | st.integers(1, 4))
def test_a_stretch_of_latents_writes_what_it_writes_among_all(
    start: int | None, stop: int | None, step: int | None
) -> None:
    assert_only_chosen_write(clt(), slice(start, stop, step), X)


def test_batches_have_any_number_of_dimensions() -> None:
    module = clt()
    assert_close(module.encode(X.view(5, 1, -1)).view(5, -1), module.encode(X).detach())
    codes = noise(5, LATENTS, seed=2)
    assert_close(module.decode(codes[0], X[0]), module.decode(codes, X)[0].detach())


def test_gradients_reach_every_parameter() -> None:
    assert_all_parameters_learn(clt(), X)


@pytest.mark.parametrize("widths", [(4, 4), (4, 3)])
def test_one_layer_is_a_transcoder_bit_for_bit(widths: tuple[int, int]) -> None:
    read, written = widths
    one, plain = (
        geometry.build(config, Widths(reads=(read,), writes=(written,)), N)
        for config in (CLTConfig(), TranscoderConfig())
    )
    drawn, of_plain = one.draw(generator()), plain.draw(generator())
    assert torch.equal(drawn["W_dec.0"], of_plain["W_dec"])
    one.place(drawn, 0.7)
    plain.place(of_plain, 0.7)
    x, learned = noise(6, read, dtype=torch.float32), []
    for module in (one, plain):
        pre = module.encode(x)
        reconstruction = module.decode(pre.relu(), x)
        reconstruction.square().sum().backward()
        found = {"pre": pre, "reconstruction": reconstruction, "norms": module.norms()}
        learned.append(found | {name.split(".")[0]: parameter.grad for name, parameter in module.named_parameters()})
    assert learned[0].keys() == learned[1].keys()
    for name, value in learned[1].items():
        assert torch.equal(learned[0][name].view_as(value), value), name


def test_drawn_rows_have_norm_1_together_and_the_same_for_every_target() -> None:
    module = geometry.build(CLTConfig(), Widths(reads=(READ,) * LAYERS, writes=(WRITTEN,) * LAYERS), N).double()
    module.place(module.draw(generator()), 0.5)
    np.testing.assert_allclose(module.norms().detach(), 0.5, rtol=1e-6)
    parts = [np.linalg.norm(decoder(weights(module), 0, target), axis=1) for target in range(LAYERS)]
    np.testing.assert_allclose(parts, 0.5 / 3**0.5, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(weights(module)["W_enc"], axis=1), 0.5, rtol=1e-6)


def test_encoders_are_tied_to_what_is_written_to_their_own_layer() -> None:
    module = geometry.build(
        CLTConfig(),
        Widths(
            reads=(
                2,
                2,
            ),
            writes=(
                2,
                2,
            ),
        ),
        N,
    )
    module.place(module.draw(generator()), 0.5, unit_norm_decoder=True)
    w = weights(module)
    np.testing.assert_allclose(module.norms().detach(), 1, rtol=1e-6)
    for j in range(2):
        own = decoder(w, j, j)
        np.testing.assert_allclose(w["W_enc"][j].T, 0.5 * own / np.linalg.norm(own, axis=1, keepdims=True), rtol=1e-5)


READS = {
    "factors": diagonal(LAYERS * READ, 3),
    "matrices": side_by_side([full(READ, 10 + j) for j in range(LAYERS)]),
}
WRITES = {
    "factors": diagonal(LAYERS * WRITTEN, 4),
    "matrices": side_by_side([full(WRITTEN, 20 + j) for j in range(LAYERS)]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_folding_leaves_pre_and_outputs_as_they_are(read: Affine, write: Affine) -> None:
    module = clt()
    pre = module.encode(applied(read, X)).detach()
    reconstruction = undone(write, module.decode(pre, applied(read, X)).detach())
    module.fold(read, write)
    assert_close(module.encode(X), pre)
    assert_close(module.decode(pre, X), reconstruction)


def test_norms_fold_into_the_encoder() -> None:
    assert_norms_fold_exactly(clt(), X)


def test_a_shift_needs_b_enc_to_be_folded() -> None:
    read, write = diagonal(LAYERS * READ, 3), diagonal(LAYERS * WRITTEN, 4)
    with pytest.raises(ExportError, match="no b_enc to take up the shift"):
        clt(encoder_bias=False).fold(read, write)
    unshifted, module = diagonal(LAYERS * READ, 3, shifted=False), clt(encoder_bias=False)
    pre = module.encode(applied(unshifted, X)).detach()
    module.fold(unshifted, write)
    assert_close(module.encode(X), pre)


def test_maps_that_mix_layers_are_refused() -> None:
    module, before = clt(), weights(clt())
    with pytest.raises(ExportError, match="normalized together"):
        module.fold(full(LAYERS * READ, 3), diagonal(LAYERS * WRITTEN, 4))
    with pytest.raises(ExportError, match="normalized together"):
        module.fold(diagonal(LAYERS * READ, 3), full(LAYERS * WRITTEN, 4))
    assert all(np.array_equal(value, before[name]) for name, value in weights(module).items())


@pytest.mark.parametrize(
    ("reads", "writes", "message"),
    [
        ((3, 3), (2,), "reads 2 and writes 1"),
        ((3, 4), (2, 2), "reads must have the same width, not 3, 4"),
        ((3, 3), (2, 5), "writes must have the same width, not 2, 5"),
    ],
)
def test_layers_of_different_widths_are_refused(reads: tuple[int, ...], writes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        geometry.build(CLTConfig(), Widths(reads=reads, writes=writes), N)


def test_layers_are_summed_in_full_precision_under_autocast() -> None:
    module = filled(CLTConfig(), [16] * 8, [16] * 8, 16, dtype=torch.float32)
    x = noise(64, 128, dtype=torch.float32)
    codes = noise(64, 128, seed=2, dtype=torch.float32)
    exact = module.decode(codes, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module.decode(codes, x)
        alone = module.write(codes[:, :16], slice(16), x) + module.base(x)
    one = module.write(codes[:, :16], slice(16), x) + module.base(x)
    last = slice(-16, None)
    # The last layer is a sum of eight products; each is as rough as the one of the first layer.
    assert rough.dtype == torch.float32
    assert (rough - exact)[:, last].std() < 1.2 * 8**0.5 * (alone - one)[:, last].std()
