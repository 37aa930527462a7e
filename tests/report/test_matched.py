"""Comparison at matched L0: by hand, with no extrapolation, and as tables."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import pytest

from lmsae.report.matched import Match, match_l0
from lmsae.report.results import read_results

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep

LINES = {
    "topk": {2: (0.6, 0.4), 8: (0.8, 0.2)},
    "batchtopk": {3: (0.7, 0.3), 6: (0.9, 0.1), 24: (0.94, 0.06)},
    "matryoshka": {64: (0.99, 0.01)},
}


def add_lines(sweep: Sweep, **settings: object) -> None:
    for architecture, points in LINES.items():
        for l0, (explained, dearer) in points.items():
            sweep.add(
                f"{architecture}-{l0}-{len(sweep.rows)}",
                {"l0": float(l0), "explained_variance": explained, "ce_difference": dearer},
                {"sae.architecture": architecture, "sae.k": l0, **settings},
            )


def matched(sweep: Sweep) -> list[Match]:
    config = sweep.config
    return match_l0(read_results(config, sweep.inputs), config.given)


def test_numbers_between_two_dictionaries_are_linear_in_log_l0(sweep: Sweep) -> None:
    add_lines(sweep)
    found = {(match.l0, match.label): match for match in matched(sweep)}
    assert list(found) == [(4.0, "batchtopk"), (4.0, "topk"), (8.0, "batchtopk"), (8.0, "topk")]
    share = math.log(4 / 3) / math.log(2)
    batchtopk = {"fvu": 0.3 - 0.2 * share, "ce_difference": 0.3 - 0.2 * share}
    assert found[4.0, "batchtopk"].numbers == pytest.approx(batchtopk)
    assert found[4.0, "topk"].numbers == pytest.approx({"fvu": 0.3, "ce_difference": 0.3})
    assert found[4.0, "batchtopk"].ratios == {"fvu": 1.0, "ce_difference": 1.0}
    assert found[4.0, "topk"].ratios["fvu"] == pytest.approx(0.3 / batchtopk["fvu"])
    assert found[8.0, "topk"].numbers == pytest.approx({"fvu": 0.2, "ce_difference": 0.2}), "at a point, that point"


def test_nothing_is_extrapolated(sweep: Sweep) -> None:
    """16 is above all of topk, and one dictionary is no line."""
    add_lines(sweep)
    assert {match.l0 for match in matched(sweep)} == {4.0, 8.0}
    assert "matryoshka" not in {match.label for match in matched(sweep)}


def test_a_line_goes_through_the_means_of_seeds_and_hook_points_are_compared_apart(sweep: Sweep) -> None:
    add_lines(sweep, **{"train.seed": 0})
    add_lines(sweep, **{"train.seed": 1})
    row = sweep.rows[-1]
    add_lines(sweep, **{"sae.hook_point": "blocks.1.hook_resid_post"})
    found = matched(sweep)
    assert [match.hook_points for match in found] == ["blocks.0.hook_resid_post"] * 4 + ["blocks.1.hook_resid_post"] * 4
    assert found[0].numbers == pytest.approx(found[4].numbers)
    assert row.settings["train.seed"] == 1


def test_lines_of_one_architecture_are_told_apart_by_what_the_user_set(sweep: Sweep) -> None:
    for size in (256, 1024):
        add_lines(sweep, **{"sae.d_sae": size})
    assert {match.label for match in matched(sweep)} == {
        f"{architecture}, d_sae {size}" for architecture in ("topk", "batchtopk") for size in (256, 1024)
    }


@pytest.mark.slow
def test_the_report_has_the_comparison_as_a_table_and_on_the_page(sweep: Sweep) -> None:
    add_lines(sweep)
    report = sweep.report().path
    with open(report / "matched.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["l0"], line["line"]) for line in lines[:2]] == [("4.0", "batchtopk"), ("4.0", "topk")]
    assert float(lines[1]["ratio.fvu"]) == pytest.approx(0.3 / float(lines[0]["fvu"]))
    html = (report / "report.html").read_text()
    assert 'id="matched"' in html
    assert f'<td class="n">{float(lines[1]["ratio.fvu"]):.2f}</td>' in html


@pytest.mark.slow
def test_where_no_lines_overlap_there_is_no_table(sweep: Sweep) -> None:
    sweep.add("one")
    report = sweep.report().path
    head = "hook_points,l0,line,fvu,ratio.fvu,ce_difference,ratio.ce_difference"
    assert (report / "matched.csv").read_text().splitlines() == [head]
    assert 'id="matched"' not in (report / "report.html").read_text()
