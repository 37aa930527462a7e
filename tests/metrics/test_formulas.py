"""Metrics against float64 NumPy over all tokens at once, whatever the batches; and by hand on tiny examples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.kernels import cpu as cpu_kernels
from lmsae.metrics.contexts import Places
from lmsae.metrics.formulas import (
    Firing,
    Reconstruction,
    density_counts,
    density_histogram,
)
from lmsae.metrics.splicing import NextToken, splice_scores, token_losses

GENERATOR = torch.Generator().manual_seed(0)
TOKENS, WIDTH, D_SAE = 50, 4, 6
# Far from centered and with two tokens of huge norm: means of ratios and ratios of means then differ much.
Y = 3 + torch.randn(TOKENS, WIDTH, generator=GENERATOR)
Y[[7, 31]] *= 20
Y_HAT = 0.9 * Y + 0.3 * torch.randn(TOKENS, WIDTH, generator=GENERATOR) + 0.2
CODES = torch.randn(TOKENS, D_SAE, generator=GENERATOR).relu()
CODES[:, 5] = 0
CENTER = torch.tensor([2.0, 3.0, 4.0, 5.0])
UNEVEN = [1, 20, 3, 26]


def summed(sizes: list[int], y: Tensor = Y, y_hat: Tensor = Y_HAT) -> Reconstruction:
    sums = Reconstruction(CENTER[: y.shape[1]])
    for batch in zip(y.split(sizes), y_hat.split(sizes), strict=True):
        sums.update(*batch)
    return sums


def fired(sizes: list[int]) -> Firing:
    sums = Firing()
    for codes in CODES.split(sizes):
        sums.update(codes)
    return sums


def by_numpy(sizes: list[int]) -> dict[str, float]:
    """Every metric over all tokens at once, from its formula; those of SAELens batch by batch."""
    y, y_hat, codes = (tensor.numpy().astype(np.float64) for tensor in (Y, Y_HAT, CODES))
    error = y - y_hat
    total = ((y - y.mean(0)) ** 2).sum()
    norm, norm_hat = np.linalg.norm(y, axis=1), np.linalg.norm(y_hat, axis=1)
    from_center = ((y - CENTER.numpy()) ** 2).sum(1)
    return {
        "tokens": TOKENS,
        "explained_variance": 1 - (error**2).sum() / total,
        "explained_variance_legacy": (1 - (error**2).sum(1) / from_center).mean(),
        "frac_variance_explained": 1 - error.var(0).sum() / y.var(0).sum(),
        "mse": (error**2).sum(1).mean(),
        "l2_norm_in": norm.mean(),
        "l2_norm_out": norm_hat.mean(),
        "l2_ratio": (norm_hat / norm).mean(),
        "cossim": ((y * y_hat).sum(1) / (norm * norm_hat)).mean(),
        "relative_reconstruction_bias": (y_hat**2).sum(1).mean() / (y * y_hat).sum(1).mean(),
        **as_saelens(*(np.split(side, np.cumsum(sizes)[:-1]) for side in (y, y_hat))),
        "l0": (codes != 0).sum(1).mean(),
        "l1": np.abs(codes).sum(1).mean(),
    }


def as_saelens(y: list[np.ndarray], y_hat: list[np.ndarray]) -> dict[str, float]:
    """Of batches. One token has no variance about its own mean, and SAELens then divides by 0."""
    both = list(zip(y, y_hat, strict=True))
    biases = [(hat**2).sum(1).mean() / (one * hat).sum(1).mean() for one, hat in both]
    legacy = [1 - ((one - hat) ** 2).sum(1) / ((one - one.mean(0)) ** 2).sum(1) for one, hat in both if len(one) > 1]
    return {
        "saelens_relative_reconstruction_bias": float(np.mean(biases)),
        "saelens_explained_variance_legacy": float(np.concatenate(legacy).mean()) if legacy else math.nan,
    }


@pytest.mark.parametrize("sizes", [[TOKENS], UNEVEN, [1] * TOKENS])
def test_metrics_are_those_of_all_tokens_at_once(sizes: list[int]) -> None:
    result, expected = summed(sizes).result() | fired(sizes).result(), by_numpy(sizes)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


def test_the_three_explained_variances_differ_as_their_formulas_say() -> None:
    # Targets 2, 4, 6, 8 of mean 5 and variance 5; each reconstruction is 1 too low, but for the last, 3 too low.
    y = torch.tensor([[2.0], [4.0], [6.0], [8.0]])
    y_hat = torch.tensor([[1.0], [3.0], [5.0], [5.0]])
    sums = Reconstruction(torch.tensor([5.0]))
    sums.update(y, y_hat)
    result = sums.result()
    assert result["explained_variance"] == pytest.approx(1 - (1 + 1 + 1 + 9) / (9 + 1 + 1 + 9))
    # Errors 1, 1, 1, 3 have mean 1.5, and about it .25, .25, .25, 2.25.
    assert result["frac_variance_explained"] == pytest.approx(1 - 3 / 20)
    assert result["explained_variance_legacy"] == pytest.approx((1 - 1 / 9 + 1 - 1 + 1 - 1 + 1 - 9 / 9) / 4)


def test_explained_variance_is_1_for_a_perfect_copy_and_0_for_the_mean() -> None:
    assert summed(UNEVEN, Y, Y).result()["explained_variance"] == 1
    mean = Y.double().mean(0).float().expand_as(Y)
    assert summed(UNEVEN, Y, mean).result()["explained_variance"] == pytest.approx(0, abs=1e-6)


def test_shrinkage_shows_in_the_bias() -> None:
    result = summed(UNEVEN, Y, 0.5 * Y).result()
    assert result["relative_reconstruction_bias"] == pytest.approx(0.5)
    assert result["l2_ratio"] == pytest.approx(0.5)
    assert result["cossim"] == pytest.approx(1)


def test_a_dictionary_that_writes_nothing_has_no_bias_to_speak_of() -> None:
    assert math.isnan(summed(UNEVEN, Y, torch.zeros_like(Y)).result()["relative_reconstruction_bias"])


def test_a_token_without_a_norm_divides_nothing() -> None:
    """Of norm 0, or of so little that it would outweigh all others; in every other sum it counts as it is."""
    small = torch.zeros(2, WIDTH)
    small[1, 0] = 1e-9
    sums = Reconstruction(CENTER, smallest_norm=1e-6)
    sums.update(torch.cat([Y, small]), torch.cat([Y_HAT, torch.ones(2, WIDTH)]))
    found, without = sums.result(), summed([TOKENS]).result()
    assert [found[name] for name in ("l2_ratio", "cossim")] == [without[name] for name in ("l2_ratio", "cossim")]
    assert found["tokens"] == TOKENS + 2
    assert found["mse"] == pytest.approx((without["mse"] * TOKENS + 2 * WIDTH) / (TOKENS + 2))


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.5])
@pytest.mark.parametrize("tokens", [1, 1000])
def test_activations_that_never_vary_have_no_share_of_variance_explained(value: float, tokens: int) -> None:
    y = torch.full((tokens, WIDTH), value)
    sums = Reconstruction(torch.full((WIDTH,), value), smallest_norm=0.0)
    sums.update(y, y + 0.01)
    result = sums.result()
    none = {name for name, number in result.items() if math.isnan(number)}
    explained = {name for name in result if "explained" in name}
    assert none == explained | (
        set() if value else {name for name in result if "bias" in name} | {"l2_ratio", "cossim"}
    )
    assert result["mse"] == pytest.approx(WIDTH * 1e-4, rel=1e-2)


def test_a_variance_of_a_millionth_of_the_norm_is_one() -> None:
    y = 1e3 + torch.randn(TOKENS, WIDTH, generator=GENERATOR, dtype=torch.float64)
    sums = Reconstruction(torch.full((WIDTH,), 1e3))
    sums.update(y, y + 0.1)
    assert sums.result()["explained_variance"] == pytest.approx(1 - 0.01 / y.var(0, correction=0).mean().item())


def test_density_and_mean_activation_are_by_latent() -> None:
    sums, codes = fired(UNEVEN), CODES.numpy().astype(np.float64)
    np.testing.assert_allclose(sums.density(), (codes > 0).mean(0), rtol=1e-12)
    firings = (codes > 0).sum(0)
    np.testing.assert_allclose(sums.mean_activation(), codes.sum(0) / np.maximum(firings, 1), rtol=1e-6)
    assert sums.density()[5] == sums.mean_activation()[5] == 0


def test_firings_are_counted_by_context_where_there_are_any() -> None:
    counted = torch.ones(3, 4, dtype=torch.bool)
    counted[0, 0] = counted[2, 3] = False
    codes = torch.zeros(10, 3)
    # Latent 0 fires twice in the first context and once in the last; latent 1 in the middle one, on all four tokens.
    codes[[0, 2, 8], 0] = codes[3:7, 1] = 1.0
    sums = Firing()
    for contexts, tokens in ((slice(0, 2), slice(0, 7)), (slice(2, 3), slice(7, 10))):
        sums.update(codes[tokens], Places(counted[contexts], torch.ones(len(counted[contexts]), 4, 1)))
    assert sums.firings_per_context().tolist() == [3 / 2, 4, 0]


DENSITY = torch.tensor([0.0, 0.0, 1e-6, 5e-6, 1e-5, 1e-3, 1e-2, 0.02, 0.1, 0.5, 1.0], dtype=torch.float64)


def test_latents_are_counted_by_density() -> None:
    counts = {"dead": 2, "dead_share": 2 / 11, "rare_1e-5": 2, "dense_1e-2": 4, "dense_1e-1": 2}
    assert density_counts(DENSITY) == pytest.approx(counts)


def test_a_histogram_holds_every_latent_that_fired() -> None:
    histogram = density_histogram(DENSITY)
    assert len(histogram) == 60
    assert sum(histogram) == 9
    # Bins are a tenth of a decade: log10 .5 = -.30, log10 1 = 0 and the last bin includes its end.
    assert histogram[56] + histogram[57] == 1
    assert histogram[59] == 1


def test_a_rate_below_the_histogram_lands_in_its_first_bin() -> None:
    assert density_histogram(torch.tensor([1e-9]))[0] == 1


# Two contexts of three tokens over a vocabulary of two: logits of (log p, log (1 - p)) are the probabilities.
TOKEN_IDS = torch.tensor([[0, 1, 0], [1, 1, 0]])
COUNTED = torch.tensor([[False, True, True], [True, True, True]])


def logits(first: list[list[float]]) -> Tensor:
    """Logits that give token 0 these probabilities."""
    p = torch.tensor(first)
    return torch.stack([p.log(), (1 - p).log()], dim=-1)


CLEAN = [[0.1, 0.5, 0.9], [0.2, 0.8, 0.9]]
OTHER = [[0.9, 0.25, 0.9], [0.5, 0.5, 0.9]]


def measured(p: list[list[float]], counted: Tensor = COUNTED) -> NextToken:
    sums = NextToken()
    sums.update(logits(p), TOKEN_IDS, counted, logits(CLEAN))
    return sums


def kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_cross_entropy_is_over_positions_whose_own_token_counts_and_that_have_a_next() -> None:
    clean = measured(CLEAN)
    assert clean.positions == 3
    # Context 0: after its second token comes 0, p = .5. Context 1: 1 at 1 - .2, then 0 at .8.
    assert clean.mean_cross_entropy() == pytest.approx(-(math.log(0.5) + math.log(0.8) + math.log(0.8)) / 3, rel=1e-6)


def test_divergence_is_from_the_clean_model_to_this_one() -> None:
    expected = (kl(0.5, 0.25) + kl(0.2, 0.5) + kl(0.8, 0.5)) / 3
    assert measured(OTHER).mean_divergence() == pytest.approx(expected, rel=1e-6)
    assert measured(CLEAN).mean_divergence() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_and_our_loops_find_the_same_losses(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stands in for a GPU; a logit of -inf is a token that the model cannot say."""
    generator = torch.Generator().manual_seed(0)
    clean, other = (3 * torch.randn(2, 5, 70, generator=generator).to(dtype) for _ in range(2))
    clean[..., 8] = other[..., 8] = -torch.inf
    tokens, counted = torch.randint(8, (2, 5), generator=generator), torch.ones(2, 5, dtype=torch.bool)
    by_loops = token_losses(other, tokens, counted, clean)
    monkeypatch.setattr(cpu_kernels, "can_read_logits", lambda logits: False)
    by_torch = token_losses(other, tokens, counted, clean)
    assert torch.equal(by_loops.has_next, by_torch.has_next)
    for name in ("cross_entropy", "divergence"):
        torch.testing.assert_close(getattr(by_loops, name), getattr(by_torch, name), rtol=1e-5, atol=1e-5)
    assert by_loops.divergence.min() > 0


def test_a_special_token_never_counts() -> None:
    changed = [[0.999, *row[1:]] if i == 0 else row for i, row in enumerate(OTHER)]
    assert measured(changed).mean_cross_entropy() == measured(OTHER).mean_cross_entropy()
    assert measured(changed).mean_divergence() == measured(OTHER).mean_divergence()


def test_the_last_position_has_no_next_token_and_never_counts() -> None:
    changed = [[*row[:2], 0.001] for row in OTHER]
    assert measured(changed).mean_cross_entropy() == measured(OTHER).mean_cross_entropy()


def test_next_token_sums_do_not_depend_on_batches() -> None:
    apart = NextToken()
    for row in range(2):
        one = slice(row, row + 1)
        apart.update(logits(OTHER)[one], TOKEN_IDS[one], COUNTED[one], logits(CLEAN)[one])
    whole = measured(OTHER)
    assert apart.positions == whole.positions
    assert apart.mean_cross_entropy() == pytest.approx(whole.mean_cross_entropy(), rel=1e-12)
    assert apart.mean_divergence() == pytest.approx(whole.mean_divergence(), rel=1e-12)


def test_splice_scores_are_shares_of_what_ablation_costs() -> None:
    scores = splice_scores(
        NextToken(positions=10, cross_entropy=20.0),
        NextToken(positions=10, cross_entropy=25.0, divergence=4.0, last_positions=2, last_divergence=2.0),
        NextToken(positions=10, cross_entropy=60.0, divergence=40.0),
        NextToken(positions=10, cross_entropy=40.0, divergence=16.0),
        NextToken(positions=10, cross_entropy=70.0, divergence=40.0, last_positions=2, last_divergence=20.0),
    )
    assert scores == pytest.approx(
        {
            "ce_clean": 2.0,
            "ce_spliced": 2.5,
            "ce_difference": 0.5,
            "kl_div": 0.4,
            "ce_zero_ablated": 6.0,
            "ce_loss_score_zero": (6 - 2.5) / (6 - 2),
            "kl_div_score_zero": 0.9,
            "ce_mean_ablated": 4.0,
            "ce_loss_score_mean": (4 - 2.5) / (4 - 2),
            "kl_div_score_mean": 0.75,
            "saelens_ce_loss_with_ablation": 7.0,
            "saelens_ce_loss_score": (7 - 2.5) / (7 - 2),
            "saelens_kl_div_with_sae": 0.5,
            "saelens_kl_div_with_ablation": 5.0,
            "saelens_kl_div_score": 0.9,
        }
    )


def test_where_ablation_costs_nothing_there_is_no_share_of_its_cost() -> None:
    """As at a hook point that is 0 everywhere; a difference of rounding is none either."""
    clean = NextToken(positions=10, cross_entropy=20.0)
    spliced = NextToken(positions=10, cross_entropy=25.0, divergence=4.0)
    same, nearly = NextToken(10, 20.0), NextToken(10, 20.0 + 1e-8, 1e-9)
    scores = splice_scores(clean, spliced, same, nearly, same)
    none = {name for name, value in scores.items() if math.isnan(value)}
    scores_of_ours = {"ce_loss_score_zero", "ce_loss_score_mean", "kl_div_score_zero", "kl_div_score_mean"}
    assert none == scores_of_ours | {"saelens_ce_loss_score", "saelens_kl_div_score"}
    assert scores["ce_difference"] == pytest.approx(0.5)
