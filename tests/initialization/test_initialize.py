"""Initialization: the searched norm is the best of those tried, and every option does what it says."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.initialization.config import InitConfig
from lmsae.initialization.initialize import initialize
from lmsae.losses import reconstruction_loss
from lmsae.sparsity.config import TopKConfig
from lmsae.training.objective import Objective
from tests.architectures import parts
from tests.dictionary.grid import ACT_FNS, GEOMETRIES, Case, can_be_planned
from tests.initialization.start import calibration, started
from tests.planning.checks.refusing import refusals

SAE = Case("sae", "relu")
WRITES_ROWS = [name for name in GEOMETRIES if name != "molt"]
SEARCHED = [Case(geometry, "topk") for geometry in GEOMETRIES] + [
    case for act_fn in ACT_FNS if act_fn != "topk" and can_be_planned(case := Case("sae", act_fn))
]


def weights(made: Any) -> dict[str, Tensor]:
    return dict(made.geometry.named_parameters())


def rows(made: Any) -> Tensor:
    """Decoder rows (latents of the last layer, d_out of the last hook points)."""
    return next(value for name, value in reversed(weights(made).items()) if name.startswith("W_dec"))


@pytest.mark.parametrize("unit_norm_decoder", [False, True])
@pytest.mark.parametrize("case", SEARCHED, ids=str)
def test_the_norm_chosen_is_the_best_of_those_tried(case: Case, unit_norm_decoder: bool) -> None:
    options = {"unit_norm_decoder": unit_norm_decoder, "b_enc": "zero", "tokens": 40}
    made, tried = started(case, grid_search=True, **options)
    norms, losses = np.array([one["norm"] for one in tried]), [one["loss"] for one in tried]
    np.testing.assert_allclose(norms[:50], np.linspace(0.1, 5, 50))
    wanted = norms[np.argmin(losses[:50])] + np.linspace(-0.09, 0.1, 20)
    np.testing.assert_allclose(norms[50:], wanted[wanted > 0])
    # A dictionary started at the best norm without a search is the same, and its loss is what the search says.
    best = int(np.argmin(losses))
    again, nothing = started(case, grid_search=False, decoder_norm=norms[best], **options)
    assert nothing == []
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())
    for one in {best, 0, 7, 49}:
        other, _ = started(case, grid_search=False, decoder_norm=norms[one], **options)
        x, target, usable = calibration(other, case)
        first = slice(0, 40 if usable is None else 5)
        batch = (x[first], target[first], None if usable is None else usable[first])
        with torch.no_grad():
            loss = reconstruction_loss(other.train().training_pass(*batch))
        assert loss.item() == losses[one]


@pytest.mark.parametrize("unit_norm_decoder", [False, True])
def test_losses_of_the_search_are_those_of_the_formula_in_float64(unit_norm_decoder: bool) -> None:
    made, tried = started(SAE, unit_norm_decoder=unit_norm_decoder, tokens=60, dtype=torch.float64)
    x = calibration(made, SAE)[0].numpy()
    directions = rows(made).detach().numpy()
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    for one in tried[::9]:
        decoder = directions if unit_norm_decoder else one["norm"] * directions
        codes = np.maximum((x[:60] - x.mean(0)) @ (one["norm"] * directions).T, 0)
        loss = ((codes @ decoder + x.mean(0) - x[:60]) ** 2).sum(1).mean()
        assert one["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_unless_told_only_what_autoencodes_is_searched(geometry: str) -> None:
    made, tried = started(Case(geometry, "relu"), decoder_norm=0.25, tokens=10)
    assert bool(tried) == made.config.geometry.autoencodes
    if not tried:
        torch.testing.assert_close(made.geometry.norms(), torch.full((made.geometry.latents,), 0.25))


@pytest.mark.parametrize("act_fn", ACT_FNS)
def test_a_search_observes_no_statistic(act_fn: str) -> None:
    case = Case("clt" if ACT_FNS[act_fn].joins_groups else "sae_tied", act_fn)
    made, _ = started(case, tokens=10, grid_search=True)
    fresh = type(made)(made.config).sparsity.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in made.sparsity.state_dict().items())


OPTIONS: list[dict[str, Any]] = [
    {"seed": 1},
    {"decoder_init": "uniform"},
    {"decoder_init": "kaiming"},
    {"decoder_init": "datapoint"},
    {"decoder_init": "datapoint", "datapoint_blend": 0.3},
    {"decoder_init": "active_subspace"},
    {"decoder_init": "active_subspace", "subspace_rank": 1},
    {"encoder_factor": 0.5},
    {"b_dec": "zero"},
    {"b_dec": "geometric_median"},
    {"b_enc": "minus_mean_pre"},
    {"grid_search": True},
    {"decoder_norm": 0.3},
]


PLAIN = Objective(losses=(), unit_norm_decoder=False)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_option_changes_the_bytes_and_the_same_options_give_the_same(geometry: str) -> None:
    case, default = Case(geometry, "relu"), {"grid_search": False, "decoder_norm": 0.123, "tokens": 30}
    seen = [started(case, **default)[0].state_dict()]
    for option in OPTIONS:
        if not refusals(init=InitConfig(**option), dictionary=case.config, objective=PLAIN):
            one, again = (started(case, **(default | option))[0].state_dict() for _ in range(2))
            assert all(torch.equal(value, again[name]) for name, value in one.items())
            assert not any(all(torch.equal(value, other[name]) for name, value in one.items()) for other in seen)
            seen.append(one)
    assert len(seen) > 5


@pytest.mark.parametrize("decoder_init", ["unit", "uniform", "datapoint", "active_subspace"])
@pytest.mark.parametrize("geometry", WRITES_ROWS)
def test_rows_have_the_norm_given_whatever_their_directions(geometry: str, decoder_init: str) -> None:
    made, _ = started(Case(geometry, "relu"), decoder_init=decoder_init, grid_search=False, decoder_norm=0.4)
    sites = len(made.config.widths.writes) if geometry == "crosscoder" else 1
    torch.testing.assert_close(made.geometry.norms(), torch.full((made.geometry.latents,), 0.4 * sites))


def test_kaiming_rows_have_norms_around_the_one_given() -> None:
    made, _ = started(SAE, decoder_init="kaiming", grid_search=False, decoder_norm=0.4)
    norms = made.geometry.norms()
    assert norms.std() > 0.02
    assert 0.3 < norms.mean() < 0.5


@pytest.mark.parametrize("decoder_init", ["unit", "uniform", "datapoint", "active_subspace"])
def test_a_decoder_kept_at_norm_1_starts_there_and_the_encoder_has_the_norm(decoder_init: str) -> None:
    options = {"unit_norm_decoder": True, "grid_search": False, "decoder_norm": 0.4}
    made, _ = started(SAE, decoder_init=decoder_init, **options)
    torch.testing.assert_close(made.geometry.norms(), torch.ones(made.geometry.latents))
    torch.testing.assert_close(weights(made)["W_enc"], 0.4 * rows(made).T)


def test_rows_in_the_active_subspace_are_combinations_of_leading_directions() -> None:
    case = Case("crosscoder", "relu", "none")
    made, _ = started(case, decoder_init="active_subspace", subspace_rank=2, dtype=torch.float64)
    target = calibration(made, case)[1].numpy()
    start = 0
    for width in made.config.widths.writes:
        part = target[:, start : start + width] - target[:, start : start + width].mean(0)
        leading = np.linalg.svd(part, full_matrices=False)[2][:2]
        written = rows(made).detach().numpy()[:, start : start + width]
        np.testing.assert_allclose(written @ leading.T @ leading, written, atol=1e-6)
        assert np.linalg.matrix_rank(written, tol=1e-5) == 2
        start += width


@pytest.mark.parametrize(("blend", "cosine"), [(1.0, 1.0), (0.8, 0.9)])
def test_rows_blended_with_data_point_at_centered_targets(blend: float, cosine: float) -> None:
    made, _ = started(SAE, decoder_init="datapoint", datapoint_blend=blend)
    x = calibration(made, SAE)[0]
    centered = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    nearest = (torch.nn.functional.normalize(rows(made), dim=1) @ centered.T).amax(1)
    assert (nearest > cosine - 1e-5).all()


def test_rows_of_a_clt_point_at_targets_of_the_layers_that_they_write() -> None:
    case = Case("clt", "relu")
    made, _ = started(case, decoder_init="datapoint", datapoint_blend=1)
    layers = [part - part.mean(0) for part in calibration(made, case)[1].split(made.config.widths.writes, dim=1)]
    for j in range(len(layers)):
        parts = weights(made)[f"W_dec.{j}"].split(made.config.widths.writes[j:], dim=1)
        for part, targets in zip(parts, layers[j:], strict=True):
            cosines = torch.nn.functional.normalize(part, dim=1) @ torch.nn.functional.normalize(targets, dim=1).T
            torch.testing.assert_close(cosines.amax(1), torch.ones(len(part)))


def test_at_a_blend_of_0_rows_are_random() -> None:
    blended, _ = started(SAE, decoder_init="datapoint", datapoint_blend=0, grid_search=False)
    plain, _ = started(SAE, grid_search=False)
    torch.testing.assert_close(rows(blended), rows(plain))


@pytest.mark.parametrize("geometry", ["sae", "crosscoder", "transcoder_glu"])
def test_the_encoder_is_the_decoder_transposed_times_the_factor(geometry: str) -> None:
    made, _ = started(Case(geometry, "relu"), encoder_factor=0.5, tokens=30, grid_search=True)
    torch.testing.assert_close(weights(made)["W_enc"], 0.5 * rows(made).T)


@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if "glu" not in name])
def test_an_encoder_bias_of_minus_the_mean_centers_pre(geometry: str) -> None:
    case = Case(geometry, "relu")
    made, _ = started(case, b_enc="minus_mean_pre", tokens=1000)
    x, _, usable = calibration(made, case)
    pre = made.geometry.encode(x).detach()
    pre = pre if usable is None else pre[usable]
    torch.testing.assert_close(pre.mean(0), torch.zeros(pre.shape[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_b_dec_is_the_mean_of_usable_targets(geometry: str) -> None:
    case = Case(geometry, "relu")
    made, _ = started(case, tokens=10)
    _, target, usable = calibration(made, case)
    np.testing.assert_allclose(
        weights(made)["b_dec"].detach(), (target if usable is None else target[usable]).numpy().mean(0), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "init", "factor", "b_enc"),
    [
        ("transcoder", {}, 10, "minus_mean_pre"),
        ("skip_transcoder", {}, 10, "minus_mean_pre"),
        ("lorsa", {}, 10, "minus_mean_pre"),
        ("lorsa", {"from_model": True}, 1, "zero"),
        ("transcoder", {"encoder_factor": 2}, 2, "minus_mean_pre"),
        ("transcoder", {"b_enc": "zero"}, 10, "zero"),
        ("topk", {}, 1, "zero"),
        ("clt", {}, 1, "zero"),
        ("matching_pursuit", {}, 1, "zero"),
    ],
)
def test_empty_columns_stand_for_what_keeps_latents_alive(
    name: str, init: dict[str, Any], factor: float, b_enc: str
) -> None:
    settled = InitConfig(**init).settled(parts(name, 16, 64)[0])
    assert (settled.encoder_factor, settled.b_enc) == (factor, b_enc)


def test_a_transcoder_starts_with_unit_encoder_columns_and_a_mean_pre_of_zero() -> None:
    case = Case("transcoder", "topk")
    made, _ = started(case)
    x, _, usable = calibration(made, case)
    assert usable is None
    assert weights(made)["W_enc"].norm(dim=0).tolist() == pytest.approx([1.0] * made.config.d_sae, rel=1e-5)
    with torch.no_grad():
        mean = made.geometry.encode(x).mean(0)
    assert mean.abs().max().item() < 1e-4


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_pca_of_2_k_latents_is_the_projection_on_the_first_k_components(k: int) -> None:
    """Compared with numpy's singular value decomposition in float64; only the directions were rounded to float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64) * torch.arange(1, 9).sqrt() + 3
    config = DictionaryConfig(
        widths=Widths(reads=(8,), writes=(8,)),
        d_sae=2 * k,
        geometry=SAEConfig(),
        act_fn=TopKConfig(k=k),
        normalize_activations="none",
    )
    made = Dictionary(config).double()
    initialize(made, x, x, None, InitConfig(decoder_init="pca"), unit_norm_decoder=False)
    centered = x.numpy() - x.numpy().mean(0)
    directions = np.linalg.svd(centered, full_matrices=False)[2][:k]
    projected = centered @ directions.T @ directions + x.numpy().mean(0)
    codes = made.encode(x)
    assert ((codes != 0).sum(1) <= k).all()
    np.testing.assert_allclose(made.decode(codes, x).detach().numpy(), projected, atol=2e-5)
