"""Low-rank sparse attention against its definition, position by position in float64, and as a model's attention."""

import cmath
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import GPTNeoXConfig, GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from lmsae import geometry
from lmsae.errors import ExportError, ShapeError
from lmsae.geometry.config import LorsaConfig, TranscoderConfig, Widths
from lmsae.geometry.geometry import Affine, Geometry
from lmsae.geometry.lorsa import Attention, Lorsa
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

READ, WRITTEN, N, HEADS, D_QK, CONTEXT = 5, 3, 6, 2, 4, 7
X = noise(2, CONTEXT, READ)
SMALL = LorsaConfig(lorsa_qk_heads=HEADS, lorsa_d_qk=D_QK)
POSITIONS = {
    "rotary": SMALL,
    "rotary in some dimensions": SMALL.model_copy(update={"lorsa_rotary_dim": 2, "lorsa_rotary_base": 50.0}),
    "none": SMALL.model_copy(update={"lorsa_rotary": False}),
}
ROTARY = POSITIONS["rotary"]


def lorsa(config: LorsaConfig = ROTARY, *, encoder_bias: bool = True) -> Geometry:
    return filled(config, [READ], [WRITTEN], N, encoder_bias=encoder_bias)


def turned(vector: np.ndarray, position: int, config: LorsaConfig) -> np.ndarray:
    """Rotary positions by their definition: dimensions i and i + dim/2 are a complex number, turned by
    position * base^(-2i/dim)."""
    vector = vector.copy()
    for i in range(config.rotated // 2):
        j = i + config.rotated // 2
        angle = position * config.lorsa_rotary_base ** (-2 * i / config.rotated)
        number = complex(vector[i], vector[j]) * cmath.exp(1j * angle)
        vector[i], vector[j] = number.real, number.imag
    return vector


def pre_by_definition(w: dict[str, np.ndarray], context: np.ndarray, config: LorsaConfig) -> np.ndarray:
    """pre (position, latents) of one context, latent by latent."""
    pre = np.zeros((len(context), N))
    for latent in range(N):
        head = latent // (N // HEADS)
        for at in range(len(context)):
            query = turned(context[at] @ w["W_Q"][head] + w["b_Q"][head], at, config)
            scores = []
            for source in range(at + 1):
                key = turned(context[source] @ w["W_K"][head] + w["b_K"][head], source, config)
                scores.append(query @ key / D_QK**0.5)
            pattern = np.exp(np.array(scores) - max(scores))
            pattern /= pattern.sum()
            values = context[: at + 1] @ w["W_enc"][:, latent] + w["b_enc"][latent]
            pre[at, latent] = pattern @ values
    return pre


@pytest.mark.parametrize("config", POSITIONS.values(), ids=POSITIONS)
def test_pre_is_what_rank_1_heads_attend_to(config: LorsaConfig) -> None:
    module = lorsa(config)
    wanted = [pre_by_definition(weights(module), context, config) for context in X.numpy()]
    np.testing.assert_allclose(module.encode(X).detach(), wanted, rtol=1e-10, atol=1e-10)


def test_a_reconstruction_is_the_sum_of_rows_and_bias() -> None:
    module, codes = lorsa(), noise(4, N, seed=2)
    w = weights(module)
    assert_close(module.decode(codes, X.flatten(0, 1)[:4]), codes.numpy() @ w["W_dec"] + w["b_dec"])
    assert_close(module.norms(), np.linalg.norm(w["W_dec"], axis=1))


@pytest.mark.parametrize("config", POSITIONS.values(), ids=POSITIONS)
def test_a_later_token_never_changes_an_earlier_pre(config: LorsaConfig) -> None:
    module = lorsa(config)
    before = module.encode(X)
    for changed in range(CONTEXT):
        other = X.clone()
        other[:, changed] += 10
        after = module.encode(other)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.equal(after[:, changed], before[:, changed])


def test_contexts_do_not_see_each_other() -> None:
    module = lorsa()
    assert_close(module.encode(X)[1], module.encode(X[1]).detach())
    assert_close(module.encode(X.view(2, 1, CONTEXT, READ)).flatten(0, 1), module.encode(X).detach())


@pytest.mark.parametrize("config", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("encoder_bias", [True, False])
@pytest.mark.parametrize("d_sae", [N, HEADS * D_QK])
def test_contexts_of_one_token_are_a_transcoder_bit_for_bit(
    config: LorsaConfig, encoder_bias: bool, d_sae: int
) -> None:
    sizes = {"d_sae": d_sae, "encoder_bias": encoder_bias, "dtype": torch.float32}
    module = filled(config, [READ], [WRITTEN], **sizes)
    plain = filled(TranscoderConfig(), [READ], [WRITTEN], **sizes)
    x = noise(9, 1, READ, dtype=torch.float32)
    codes = plain.encode(x).relu()
    assert torch.equal(module.encode(x).relu(), codes)
    assert torch.equal(module.decode(codes, x), plain.decode(codes, x))


def test_a_start_is_that_of_a_transcoder_bit_for_bit() -> None:
    for written in (READ, WRITTEN):
        module, plain = (
            geometry.build(config, Widths(reads=(READ,), writes=(written,)), N)
            for config in (ROTARY, TranscoderConfig())
        )
        module.place(module.draw(generator()), 0.7)
        plain.place(plain.draw(generator()), 0.7)
        for name, value in weights(plain).items():
            assert np.array_equal(weights(module)[name], value), name


@pytest.mark.parametrize("unit", [True, False])
def test_queries_and_keys_start_random_and_decoders_at_the_norm_asked_for(unit: bool) -> None:
    module = geometry.build(ROTARY, Widths(reads=(READ,), writes=(WRITTEN,)), N)
    module.place(module.draw(generator()), 0.3, unit_norm_decoder=unit)
    w = weights(module)
    np.testing.assert_allclose(module.norms().detach(), 1 if unit else 0.3, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(w["W_enc"], axis=0), 0.3, rtol=1e-6)
    for name in ("W_Q", "W_K"):
        np.testing.assert_allclose(np.linalg.norm(w[name], axis=1), 1, rtol=1e-6)
    assert not np.array_equal(w["W_Q"], w["W_K"])


@pytest.mark.parametrize("config", POSITIONS.values(), ids=POSITIONS)
def test_gradients_reach_every_parameter(config: LorsaConfig) -> None:
    assert_all_parameters_learn(lorsa(config), X)


def test_chosen_latents_write_what_they_write_among_all() -> None:
    for chosen in (torch.tensor([4, 0, 3]), torch.tensor([], dtype=torch.long), slice(2), slice(None), slice(1, 6, 2)):
        assert_only_chosen_write(lorsa(), chosen, X)


@pytest.mark.parametrize("read", [diagonal(READ, 3), full(READ, 3)], ids=["factors", "matrix"])
@pytest.mark.parametrize("write", [diagonal(WRITTEN, 4), full(WRITTEN, 4)], ids=["factors", "matrix"])
@pytest.mark.parametrize("config", POSITIONS.values(), ids=POSITIONS)
def test_folding_leaves_pre_and_outputs_as_they_are(config: LorsaConfig, read: Affine, write: Affine) -> None:
    module = lorsa(config)
    pre = module.encode(applied(read, X)).detach()
    outputs = undone(write, module.decode(pre, applied(read, X)).flatten(0, 1).detach())
    module.fold(read, write)
    np.testing.assert_allclose(module.encode(X).detach(), pre, rtol=1e-10, atol=1e-10)
    assert_close(module.decode(pre, X).flatten(0, 1), outputs)


def test_a_shift_needs_b_enc_to_be_folded() -> None:
    module = lorsa(encoder_bias=False)
    with pytest.raises(ExportError, match="no b_enc to take up the shift"):
        module.fold(diagonal(READ, 3), diagonal(WRITTEN, 4))
    read = diagonal(READ, 3, shifted=False)
    pre = module.encode(applied(read, X)).detach()
    module.fold(read, diagonal(WRITTEN, 4))
    np.testing.assert_allclose(module.encode(X).detach(), pre, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoder_bias", [True, False])
def test_norms_fold_into_the_encoder(encoder_bias: bool) -> None:
    assert_norms_fold_exactly(lorsa(encoder_bias=encoder_bias), X)


def attention(heads: int = 2, d_head: int = D_QK) -> Attention:
    shapes = [(READ, d_head)] * 3 + [(d_head, WRITTEN)] + [(d_head,)] * 2
    return Attention(*(noise(heads, *shape, seed=30 + i) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize("maps", [diagonal, full])
def test_a_start_from_attention_attends_as_the_model_does(maps: Callable[[int, int], Affine]) -> None:
    config = LorsaConfig(lorsa_qk_heads=4, lorsa_d_qk=D_QK)
    module = geometry.build(config, Widths(reads=(READ,), writes=(WRITTEN,)), 12).double()
    assert isinstance(module, Lorsa)
    model, read, write = attention(), maps(READ, 3), maps(WRITTEN, 4)
    module.place(module.draw_from(model, read, write, generator()), 0.5)
    np.testing.assert_allclose(module.norms().detach(), 0.5)
    module.fold(read, write)
    w = weights(module)
    for name in ("W_Q", "W_K", "b_Q", "b_K"):
        np.testing.assert_allclose(w[name], getattr(model, name)[[0, 0, 1, 1]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("maps", [diagonal, full])
def test_a_latent_that_starts_from_attention_moves_one_direction_of_its_head_s_values(
    maps: Callable[[int, int], Affine],
) -> None:
    module = geometry.build(
        LorsaConfig(lorsa_qk_heads=4, lorsa_d_qk=2), Widths(reads=(READ,), writes=(WRITTEN,)), 12
    ).double()
    assert isinstance(module, Lorsa)
    model, read, write = attention(d_head=2), maps(READ, 3), maps(WRITTEN, 4)
    module.place(module.draw_from(model, read, write, generator()), 0.5)
    module.fold(read, write)
    w = weights(module)
    for latent in range(12):
        head = latent // 6
        read_from, off_read, *_ = np.linalg.lstsq(model.W_V[head].numpy(), w["W_enc"][:, latent])
        written_to, off_written, *_ = np.linalg.lstsq(model.W_O[head].numpy().T, w["W_dec"][latent])
        assert max(*off_read, *off_written) < 1e-20
        cosine = read_from @ written_to / np.linalg.norm(read_from) / np.linalg.norm(written_to)
        np.testing.assert_allclose(cosine, 1)


@torch.no_grad()
def test_with_a_latent_for_each_dimension_of_its_values_it_is_the_attention_of_a_gpt_neox() -> None:
    width, heads, d_head = 12, 3, 4
    of_model = GPTNeoXConfig(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=1, intermediate_size=8, vocab_size=11,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    model = GPTNeoXModel(of_model).double().eval()
    layer = next(part for part in model.modules() if isinstance(part, GPTNeoXAttention))
    for i, parameter in enumerate(model.parameters()):
        parameter.copy_(noise(*parameter.shape, seed=40 + i))
    seen = {}
    layer.register_forward_hook(lambda _, given, out: seen.update(x=given[0], y=out[0]))
    model(torch.randint(11, (2, 9), generator=generator()))

    config = LorsaConfig(lorsa_qk_heads=heads, lorsa_d_qk=d_head, lorsa_rotary_dim=2, lorsa_rotary_base=100.0)
    module = geometry.build(config, Widths(reads=(width,), writes=(width,)), width).double()
    qkv = layer.query_key_value
    W_Q, W_K, W_V = qkv.weight.view(heads, 3, d_head, width).mT.unbind(1)
    b_Q, b_K, b_V = qkv.bias.view(heads, 3, d_head).unbind(1)
    module.load_state_dict(
        {
            "W_Q": W_Q, "W_K": W_K, "b_Q": b_Q, "b_K": b_K,
            "W_enc": W_V.transpose(0, 1).flatten(1), "b_enc": b_V.flatten(),
            "W_dec": layer.dense.weight.T, "b_dec": layer.dense.bias,
        }
    )  # fmt: skip
    # Its angles are float32, whatever its weights are.
    np.testing.assert_allclose(module.decode(module.encode(seen["x"]), seen["x"]), seen["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("heads", "d_head"), [(3, D_QK), (2, 3)])
def test_attention_that_does_not_fit_is_refused(heads: int, d_head: int) -> None:
    module = geometry.build(
        LorsaConfig(lorsa_qk_heads=4, lorsa_d_qk=D_QK), Widths(reads=(READ,), writes=(WRITTEN,)), 12
    ).double()
    assert isinstance(module, Lorsa)
    still = diagonal(READ, 3), diagonal(WRITTEN, 4)
    with pytest.raises(ShapeError, match=f"attention layer of {heads} heads of width {d_head}"):
        module.draw_from(attention(heads, d_head), *still, generator())


def test_heads_that_cannot_be_shared_equally_are_refused() -> None:
    with pytest.raises(ShapeError, match="d_sae 7 cannot be shared equally by lorsa_qk_heads 2"):
        geometry.build(ROTARY, Widths(reads=(READ,), writes=(WRITTEN,)), 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lorsa_d_qk": 5}, "5 cannot be rotated"),
        ({"lorsa_rotary_dim": 3}, "3 cannot be rotated"),
        ({"lorsa_d_qk": 4, "lorsa_rotary_dim": 8}, "lorsa_rotary_dim 8 is more than lorsa_d_qk 4"),
    ],
)
def test_dimensions_that_cannot_turn_in_pairs_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LorsaConfig.model_validate(fields)
    LorsaConfig.model_validate({**fields, "lorsa_rotary": False})


def test_autocast_gives_nearly_the_same_pre() -> None:
    module = filled(ROTARY, [READ], [WRITTEN], N, dtype=torch.float32)
    exact = module.encode(X.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module.encode(X.float())
    assert (rough - exact).norm() < 0.05 * exact.norm()
