"""When a dictionary is healthy, and what is said when it is not."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmsae.health.case import Case
from lmsae.health.config import PRESETS, DoctorSection, Thresholds, thresholds_of
from lmsae.health.ranges import ranges
from lmsae.health.verdict import examine

DEMO = PRESETS["demo"]
METRICS = {
    "explained_variance": 0.7,
    "ce_loss_score_mean": 0.8,
    "dead_share": 0.1,
    "dense_share": 0.25,
    "l2_ratio": 0.8,
    "l0": 32,
    "d_sae": 1000,
    "dead": 100,
    "ce_clean": 3.0,
    "ce_unigram": 6.0,
}
STEPS = 400
CURVES = {
    "tokens": [1000.0 * (step + 1) for step in range(STEPS)],
    "loss": [1 + math.exp(-step / 20) for step in range(STEPS)],
    "explained_variance": [0.72] * STEPS,
    "l0": [32.0] * STEPS,
    "dead": [0.0] * STEPS,
    "lr": [1e-3] * STEPS,
}
TRAINING: dict[str, Any] = {
    "lr": 1e-3,
    "lr_warm_up_steps": 0.01,
    "tokens": 400_000,
    "epochs": 1,
    "batch_size": 1000,
    "dead_threshold": 100_000,
    "threshold_lr_factor": 1.0,
    "dictionary": {
        "d_sae": 1000,
        "widths": {"reads": [256], "writes": [256]},
        "geometry": {"kind": "sae"},
        "act_fn": {"kind": "relu"},
    },
    "objective": {"losses": [{"kind": "l1", "l1_coefficient": 1.0}]},
}
HISTOGRAM = [0] * 40 + [900] + [0] * 19  # a hundredth of all tokens
HEALTHY = Case(METRICS, CURVES, TRAINING, HISTOGRAM)
RANGED = ("explained_variance", "ce_loss_score_mean", "dead_share", "dense_share", "l2_ratio")


def case(metrics: dict[str, float] | None = None, curves: dict[str, Any] | None = None, **training: Any) -> Case:
    """The healthy case with some of its numbers changed."""
    return replace(
        HEALTHY, metrics=METRICS | (metrics or {}), curves=CURVES | (curves or {}), training=TRAINING | training
    )


def part(act_fn: dict[str, Any] | None = None, **dictionary: Any) -> dict[str, Any]:
    changed = {"act_fn": act_fn} if act_fn else {}
    return {**TRAINING["dictionary"], **changed, **dictionary}


def names(found: Case, limits: Thresholds = DEMO) -> list[str]:
    return [one.name for one in examine(found, limits).diagnoses]


def test_a_dictionary_at_every_threshold_is_healthy() -> None:
    found = examine(HEALTHY, DEMO)
    assert found.ok
    assert found.findings == found.outside == ()


@pytest.mark.parametrize(
    ("metric", "value", "name"),
    [
        ("explained_variance", 0.699, "missing_variance"),
        ("ce_loss_score_mean", 0.799, "model_loss"),
        ("dead_share", 0.101, "dead_latents"),
        ("l2_ratio", 0.799, "shrinkage"),
        ("l2_ratio", 1.101, "shrinkage"),
    ],
)
def test_one_value_beyond_its_threshold_is_the_one_diagnosis(metric: str, value: float, name: str) -> None:
    found = examine(case({metric: value}), DEMO)
    assert not found.ok
    assert found.outside == (metric,)
    (diagnosis,) = found.diagnoses
    assert diagnosis.name == name
    (evidence,) = diagnosis.evidence
    assert (evidence.source, evidence.name, evidence.value) == ("metrics.json", metric, value)
    assert f"{metric} is " in found.findings[0]


@pytest.mark.parametrize("metric", RANGED)
def test_what_is_not_a_number_or_not_there_is_never_healthy(metric: str) -> None:
    assert not examine(case({metric: math.nan}), DEMO).ok
    assert not examine(replace(HEALTHY, metrics={k: v for k, v in METRICS.items() if k != metric}), DEMO).ok


def test_nothing_but_metrics_is_enough_for_the_ranges() -> None:
    assert examine(Case(METRICS), DEMO).ok
    assert names(Case({})) == ["missing_variance", "model_loss", "dead_latents", "dense_latents", "shrinkage"]


RISING = {"reconstruction_loss": [1.0, 50.0, *[0.5] * (STEPS - 2)]}
FALLING = {"loss": [10 - step / STEPS for step in range(STEPS)]}
SLOW = {"lr": [1e-6] * STEPS}
JUMPRELU = part({"kind": "jumprelu"})
MOLT = part({"kind": "jumprelu"}, d_sae=200, geometry={"kind": "molt"})
TOPK = part({"kind": "topk", "k": 32})
MOVING = {"l0": [60.0] * 320 + [30.0] * 80}


@pytest.mark.parametrize(
    ("found", "name", "said"),
    [
        (case({"ce_clean": 4.51}), "unknown_text", "ce_clean is 4.51 (healthy: at most 0.75 of ce_unigram 6)"),
        (case(dictionary=part(d_sae=256)), "too_few_latents", "d_sae is 256 (healthy: above 256"),
        (case({"dead_share": 0.5}, RISING), "lr_too_high", "early rise of the loss is 50 (healthy: at most 3 times)"),
        (
            case({"dead_share": 0.5}, {"dead": [0.0] * 100 + [300.0] * 300}),
            "lr_too_high",
            "early dead share is 0.3 (healthy: at most 0.2)",
        ),
        (case(None, MOVING, dictionary=JUMPRELU), "threshold_not_settled", "l0 over the last fifth is -0.5"),
        (
            case({"l0_over_k": 0.85, "l0": 32}, dictionary=part({"kind": "batchtopk", "k": 38})),
            "threshold_not_settled",
            "l0_over_k is 0.85 (healthy: 0.9 to 1.1)",
        ),
        (
            case({"l0_over_k": 0.85, "l0": 27}, dictionary=TOPK),
            "k_not_reached",
            "l0_over_k is 0.85 (healthy: at least 0.9)",
        ),
        (case({"explained_variance": 0.3}, FALLING), "lr_too_low", "late gain is 0.5 (healthy: at most 0.35)"),
        (case({"explained_variance": 0.3}, SLOW), "lr_too_low", "path of a weight is 0.0064 (healthy: at least 1 of"),
        (
            case({"l0": 3, "explained_variance": 0.3, "l2_ratio": 0.5, "dead_share": 0.3}),
            "sparsity_too_strong",
            "l0 is 3 (healthy: at least 25)",
        ),
        (
            case({"dead": 260, "dead_share": 0.26}, tokens=20_000),
            "too_wide",
            "firings in training is 0.26 (healthy: at most 0.15)",
        ),
        (
            case({"explained_variance": 0.5}),
            "too_wide",
            "explained variance lost from training to held-out text is 0.22 (healthy: at most 0.12)",
        ),
        (case({"l0": 129}), "sparsity_too_weak", "l0 is 129 (healthy: at most 0.5 of the width 256)"),
        (case({"dense_share": 0.3}), "sparsity_too_weak", "dense_share is 0.3 (healthy: at most 0.25)"),
    ],
)
def test_a_cause_is_named_alone_with_its_evidence_and_advice(found: Case, name: str, said: str) -> None:
    verdict = examine(found, DEMO)
    assert [one.name for one in verdict.diagnoses] == [name]
    assert said in verdict.findings[0]
    assert "sae." in verdict.diagnoses[0].advice or "train." in verdict.diagnoses[0].advice or name == "unknown_text"


def test_latents_that_training_found_dead_are_no_sign_of_too_little_text() -> None:
    """A lorsa writes a space of few dimensions, and 0.37 of its latents die however much text there is."""
    late = {"dead": [0.0] * 150 + [370.0] * 250}
    assert names(case({"dead": 415, "dead_share": 0.415}, late, tokens=20_000)) == ["dead_latents"]
    assert names(case({"dead": 530, "dead_share": 0.53}, late, tokens=20_000)) == ["too_wide"]


def test_latents_that_hardly_fire_while_others_fire_often_do_not_want_for_text() -> None:
    """A matryoshka at a high rate: 32 of 512 latents a token, 400,000 tokens, and a third of the latents dying."""
    dying = {"dead": 305, "dead_share": 0.305}
    assert names(case(dying, tokens=32_000)) == ["dead_latents"]  # 32,000 tokens x 32 / 1,000 latents = 1,024 firings
    assert names(case(dying, tokens=31_000)) == ["too_wide"]


def test_a_penalty_that_leaves_few_active_is_told_of_dead_latents_too() -> None:
    """Variance of few dimensions is explained by few latents, and the others die of the penalty."""
    dead = {"dead_share": 0.3, "dead": 300}
    late = {"dead": [0.0] * 150 + [300.0] * 250}
    (diagnosis,) = examine(case({**dead, "l0": 8}, late), DEMO).diagnoses
    assert (diagnosis.name, [one.name for one in diagnosis.evidence]) == ("sparsity_too_strong", ["l0", "dead_share"])
    rate = "or lower train.lr from 0.001 to about 0.0003"
    assert diagnosis.advice == f"Lower sae.l1_coefficient from 1 to about 0.33, {rate}"
    (near,) = examine(case({**dead, "l0": 20}, late), DEMO).diagnoses
    assert near.advice == f"Lower sae.l1_coefficient from 1 to about 0.5, {rate}"
    assert names(case({**dead, "l0": 25}, late)) == ["dead_latents"]
    assert names(case({**dead, "l0": 8}, late, dictionary=MOLT)) == ["dead_latents"]


def test_a_rate_that_is_too_high_rules_out_what_follows_from_it() -> None:
    """After such a start nothing is active, and all else is wrong too."""
    ruined = {"dead_share": 0.9, "dead": 900, "l0": 0.1, "explained_variance": -0.2, "ce_loss_score_mean": 0.0}
    assert names(case({**ruined, "l2_ratio": 0.5}, RISING | FALLING | SLOW, dictionary=JUMPRELU)) == ["lr_too_high"]


EARLY = {"dead": [0.0] * 100 + [300.0] * 300}


@pytest.mark.parametrize(
    "geometry", [{"kind": "lorsa"}, {"kind": "transcoder"}, {"kind": "sae", "apply_b_dec_to_input": False}]
)
def test_latents_that_a_start_left_dead_are_not_blamed_on_the_rate(geometry: dict[str, Any]) -> None:
    """What these read has a mean that no bias takes off, and a lower rate would bring no latent to life."""
    dead = {"dead_share": 0.35, "dead": 350}
    assert names(case(dead, EARLY, dictionary=part(geometry=geometry))) == ["dead_latents"]
    assert names(case(dead, EARLY | RISING, dictionary=part(geometry=geometry))) == ["lr_too_high"]
    assert names(case(dead, EARLY)) == ["lr_too_high"]


def test_a_high_start_that_leaves_latents_alive_is_no_illness() -> None:
    assert names(case(None, RISING)) == []


def test_a_rate_that_is_too_low_rules_out_a_verdict_on_sparsity() -> None:
    assert names(case({"l0": 400, "dense_share": 1.0}, SLOW)) == ["lr_too_low"]
    assert names(case({"l0": 2, "explained_variance": 0.1}, SLOW)) == ["lr_too_low"]


def test_a_frozen_dictionary_has_no_rate_that_could_be_too_low() -> None:
    """A random control learns nothing, and is not to."""
    assert names(case(None, FALLING | SLOW, encoder_lr_factor=0.0, decoder_lr_factor=0.0)) == []


def test_a_falling_loss_of_thresholds_that_still_move_is_put_down_to_them() -> None:
    assert names(case(None, MOVING | FALLING, dictionary=JUMPRELU)) == ["threshold_not_settled"]


TANH = {"losses": [{"kind": "tanh", "tanh_coefficient": 0.5}, {"kind": "pre_act", "pre_act_coefficient": 0.01}]}


def test_a_molt_may_have_fewer_latents_than_dimensions_and_few_active_ones() -> None:
    assert names(case({"l0": 11}, dictionary=MOLT)) == []
    found = case({"l0": 11, "explained_variance": 0.62}, dictionary=MOLT, objective=TANH)
    assert names(found) == ["missing_variance"]
    assert examine(found, DEMO).diagnoses[0].advice.startswith("Lower sae.tanh_coefficient from 0.5 to about 0.25, ")


def test_tokens_with_fewer_latents_than_k_have_no_threshold_to_blame() -> None:
    """A topk chooses at inference as in training: no text to calibrate on gives it more than it has."""
    found = case({"l0_over_k": 0.78, "l0": 25}, dictionary=TOPK)
    (diagnosis,) = examine(found, DEMO).diagnoses
    assert diagnosis.advice == "Raise train.tokens, or lower sae.k from 32 to about 25"
    more = {"l0_over_k": 1.2, "l0": 38}
    assert names(case(more, dictionary=TOPK)) == []


def test_no_advice_contradicts_another() -> None:
    """A transcoder with 25 of 32 latents a token and missing variance; a lorsa that has dead latents as well."""
    few = case({"l0_over_k": 0.78, "l0": 24.9, **SHORT, "l2_ratio": 0.9}, LEARNED, dictionary=TOPK)
    assert [(one.name, one.advice) for one in examine(few, DEMO).diagnoses] == [
        ("k_not_reached", "Raise train.tokens, or lower sae.k from 32 to about 25"),
        ("missing_variance", "Raise sae.d_sae, raise train.lr from 0.001 to about 0.003, or raise train.tokens"),
    ]
    dead = case({**SHORT, "l2_ratio": 0.9, "dead_share": 0.4}, LEARNED, dictionary=TOPK, objective={"losses": []})
    missing, narrower = examine(dead, DEMO).diagnoses
    assert missing.advice == "Raise sae.k from 32 to about 64, or raise train.tokens"
    assert narrower.advice.endswith("or lower sae.d_sae from 1000 towards 600, as many as fire")


SHORT = {"explained_variance": 0.6, "l2_ratio": 0.78}
LEARNED = {"explained_variance": [0.6] * STEPS}


@pytest.mark.parametrize(
    ("bias", "found"),
    [
        (0.99, ["missing_variance"]),
        (0.79, ["missing_variance", "shrinkage"]),
        (math.nan, ["missing_variance", "shrinkage"]),
    ],
)
def test_a_reconstruction_is_not_shrunk_if_it_is_short_only_for_what_it_misses(bias: float, found: list[str]) -> None:
    assert names(case({**SHORT, "relative_reconstruction_bias": bias}, LEARNED)) == found


@pytest.mark.parametrize(
    ("act_fn", "losses", "metrics", "advice"),
    [
        (
            {"kind": "relu"},
            [{"kind": "l1", "l1_coefficient": 1.5}],
            {"l2_ratio": 0.7},
            "Lower sae.l1_coefficient from 1.5 to about 0.5, or take topk, batchtopk, gated or jumprelu, which shrink "
            "no code",
        ),
        (
            {"kind": "jumprelu"},
            TANH["losses"],
            {"l2_ratio": 0.7},
            "Lower sae.tanh_coefficient from 0.5 to about 0.17, or take the loss l0, which shrinks no code",
        ),
        (
            {"kind": "topk", "k": 32},
            [],
            {"l2_ratio": 0.7},
            "Raise sae.k from 32 to about 64, raise sae.d_sae, raise train.lr from 0.001 to about 0.003, or raise "
            "train.tokens",
        ),
        (
            {"kind": "topk", "k": 32},
            [],
            {"l2_ratio": 1.3, "relative_reconstruction_bias": 1.01},
            "Look for tokens of small norm (relative_reconstruction_bias, in which small activations weigh little, is "
            "1.01), or lower train.lr from 0.001 to about 0.0003",
        ),
    ],
)
def test_what_is_advised_for_the_length_of_reconstructions(
    act_fn: dict[str, Any], losses: list[dict[str, Any]], metrics: dict[str, float], advice: str
) -> None:
    found = case(metrics, dictionary=part(act_fn), objective={"losses": losses})
    assert [one.advice for one in examine(found, DEMO).diagnoses] == [advice]


@pytest.mark.parametrize(
    ("act_fn", "losses", "metrics", "advice"),
    [
        ({"kind": "topk", "k": 400}, [], {"l0": 400}, "Lower sae.k from 400 to about 133"),
        ({"kind": "topk", "k": 2}, [], {"l0": 2, "explained_variance": 0.3}, "Raise sae.k from 2 to about 6"),
        (
            {"kind": "relu"},
            [{"kind": "l1", "l1_coefficient": 0.1}],
            {"l0": 300},
            "Raise sae.l1_coefficient from 0.1 to",
        ),
        (
            {"kind": "jumprelu"},
            [{"kind": "target_l0", "target_l0": 300, "target_l0_coefficient": 1}],
            {"l0": 300},
            "Lower sae.target_l0 from 300 to about 100",
        ),
    ],
)
def test_advice_names_the_setting_its_value_and_the_next_to_try(
    act_fn: dict[str, Any], losses: list[dict[str, Any]], metrics: dict[str, float], advice: str
) -> None:
    found = case(metrics, dictionary=part(act_fn), objective={"losses": losses})
    assert advice in examine(found, DEMO).diagnoses[0].advice


def test_a_rate_without_warm_up_is_advised_to_have_one() -> None:
    (sick,) = examine(case({"dead_share": 0.5}, RISING, lr_warm_up_steps=0), DEMO).diagnoses
    assert sick.advice == "Lower train.lr from 0.001 to about 0.0001, and set train.lr_warm_up_steps to 0.05"
    (warmed,) = examine(case({"dead_share": 0.5}, RISING), DEMO).diagnoses
    assert "warm_up" not in warmed.advice


@pytest.mark.parametrize(("share", "said"), [(0.945, "5.5 % below k"), (1.02, "2.0 % above k")])
def test_an_l0_that_is_not_k_is_told_whatever_the_health(share: float, said: str) -> None:
    found = examine(case({"l0": 32 * share, "l0_over_k": share}), DEMO)
    assert found.ok
    assert found.findings == (f"l0 is {32 * share:.4g}, {said}",)


def test_an_l0_within_a_hundredth_of_k_is_not_worth_a_word() -> None:
    assert examine(case({"l0": 31.7, "l0_over_k": 0.9906}), DEMO).findings == ()


def test_published_practice_asks_for_more() -> None:
    assert names(HEALTHY, PRESETS["published"]) == ["sparsity_too_strong", "sparsity_too_weak"]
    good = {"explained_variance": 0.91, "l2_ratio": 0.95, "dead_share": 0.04, "dense_share": 0.05, "l0": 60}
    fine = case({**good, "dead": 40}, {"explained_variance": [0.92] * STEPS})
    assert names(fine, PRESETS["published"]) == []
    assert names(fine) == []


def test_a_row_has_its_presets_thresholds_and_those_of_its_own() -> None:
    assert thresholds_of({"train.lr": 1.0}) == DEMO
    own = thresholds_of({"doctor.preset": "published", "doctor.max_dead_share": 0.5})
    assert own == PRESETS["published"].model_copy(update={"max_dead_share": 0.5})


def test_every_threshold_is_a_column() -> None:
    assert [*DoctorSection.model_fields] == ["preset", *Thresholds.model_fields]


def test_docs_name_every_threshold_with_its_values_and_every_range() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/doctor.md").read_text()
    for name in Thresholds.model_fields:
        demo, published = (getattr(PRESETS[preset], name) for preset in ("demo", "published"))
        assert f"| `doctor.{name}` | {demo:g} | {published:g} |" in page
    for one in ranges(DEMO):
        assert f"| `{one.metric}` | {one.text} |" in (root / "docs/metrics.md").read_text()
        assert f"`{one.name}`" in page
