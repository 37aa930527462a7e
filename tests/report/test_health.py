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


def test_docs_name_every_threshold() -> None:
    docs = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for check in CHECKS:
        assert f"| `{check.metric}` | {check.range} |" in docs
