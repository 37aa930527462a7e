"""When a dictionary is healthy, and what is said when it is not."""

import math
from pathlib import Path

import pytest

from lmsae.report.health import CHECKS, verdict

HEALTHY = {
    "explained_variance": 0.7,
    "ce_loss_score_mean": 0.8,
    "dead_share": 0.1,
    "dense_1e-1": 25,
    "d_sae": 100,
    "l2_ratio": 0.8,
}


def test_a_dictionary_at_every_threshold_is_healthy() -> None:
    found = verdict(HEALTHY)
    assert found.ok
    assert found.findings == found.outside == ()


@pytest.mark.parametrize(
    ("metric", "value", "outside"),
    [
        ("explained_variance", 0.699, "explained_variance"),
        ("ce_loss_score_mean", 0.799, "ce_loss_score_mean"),
        ("dead_share", 0.101, "dead_share"),
        ("dense_1e-1", 26, "dense_share"),
        ("l2_ratio", 0.799, "l2_ratio"),
        ("l2_ratio", 1.101, "l2_ratio"),
    ],
)
def test_one_value_beyond_its_threshold_is_the_one_finding(metric: str, value: float, outside: str) -> None:
    found = verdict({**HEALTHY, metric: value})
    assert not found.ok
    assert found.outside == (outside,)
    assert found.findings[0].startswith(f"{outside} is ")


@pytest.mark.parametrize("metric", HEALTHY)
def test_what_is_not_a_number_or_not_there_is_never_healthy(metric: str) -> None:
    assert not verdict({**HEALTHY, metric: math.nan}).ok
    assert not verdict({name: value for name, value in HEALTHY.items() if name != metric}).ok


@pytest.mark.parametrize(("share", "said"), [(0.945, "5.5 % below k"), (1.02, "2.0 % above k")])
def test_an_l0_that_is_not_k_is_told_whatever_the_health(share: float, said: str) -> None:
    found = verdict({**HEALTHY, "l0": 32 * share, "l0_over_k": share})
    assert found.ok
    assert found.findings == (f"l0 is {32 * share:.4g}, {said}",)


def test_an_l0_within_a_hundredth_of_k_is_not_worth_a_word() -> None:
    assert verdict({**HEALTHY, "l0": 31.7, "l0_over_k": 0.9906}).findings == ()


def test_docs_name_every_threshold() -> None:
    docs = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for check in CHECKS:
        assert f"| `{check.metric}` | {check.range} |" in docs
