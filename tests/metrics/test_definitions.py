"""Definitions: every metric has one, in one group, and the page has them all."""

import re
from pathlib import Path

from lmsae.metrics.definitions import DERIVED, GROUPS, METRICS, PROBES, definition, names_in

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()


def test_a_metric_at_one_of_several_hook_points_is_defined_as_it_is_for_all() -> None:
    assert definition("mse[blocks.1.hook_mlp_out@2]") == f"At blocks.1.hook_mlp_out@2: {METRICS['mse']}"
    assert definition("mse") == METRICS["mse"]
    assert definition("unknown") == definition("unknown[here]") == ""


def test_every_metric_is_in_one_group() -> None:
    assert len(METRICS) == sum(len(group.metrics) for group in (*GROUPS.values(), PROBES)) + len(DERIVED)
    assert names_in(["decoder", "recovery"]) == {*GROUPS["decoder"].metrics, *GROUPS["recovery"].metrics}


def test_the_page_has_every_group_and_every_metric() -> None:
    table = PAGE.split("## Metric groups", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(GROUPS)
    assert [name for name in (*METRICS, *names_in(GROUPS)) if f"`{name}`" not in PAGE and f"`{name}[" not in PAGE] == []
