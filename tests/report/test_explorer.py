"""The interactive figures: what stands in the page. What a real browser makes of it is in test_explorer_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.report.explorer import as_json, bundle, explore
from lmsae.report.results import read_results

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep

BAD = "</script><script>alert(1)</script>&"


def test_a_row_with_a_name_that_is_a_script_harms_nobody() -> None:
    text = as_json({"row": BAD})
    assert "<" not in text
    assert json.loads(text) == {"row": BAD}
    assert "</script" not in bundle()


def test_data_has_each_row_once_and_not_too_many_points(sweep: Sweep) -> None:
    row = sweep.add("one")
    curves = sweep.artifacts[row.artifacts["train"]].path / "curves.csv"
    lines = "\n".join(f"{i},{100 * i},{1 / (i + 1)},0.5,2.0,0,0.1" for i in range(1001))
    curves.write_text(f"step,tokens,loss,explained_variance,l0,dead,lr\n{lines}\n")
    sweep.add("two", {"l0": float("nan")})
    found = explore(read_results(sweep.config, sweep.inputs), ["sae.k"], [0, 1])
    assert [(one["row"], one["setting0"], one["l0"]) for one in found["data"]["rows"]] == [
        ("one", "2", 4.5),
        ("two", "2", None),
    ]
    points = [one for one in found["data"]["curves"] if one["row"] == "one"]
    assert len(points) <= 202
    assert (points[0]["tokens"], points[-1]["tokens"]) == (0, 100_000)


def test_an_l0_of_twenty_is_written_20(sweep: Sweep) -> None:
    import vl_convert

    for name, l0 in (("one", 20.0), ("two", 40.0), ("three", 61.0)):
        sweep.add(name, {"l0": l0})
    found = explore(read_results(sweep.config, sweep.inputs), [], [0, 1, 2])
    drawn = vl_convert.vegalite_to_svg({**found["figures"]["pareto"][0], "datasets": found["data"]})
    labels = re.findall(r">([^<]+)</text>", drawn.split("role-axis-label")[1].split("</g>")[0])
    assert "20" in labels
    assert not any("e" in label for label in labels)


def test_without_a_script_the_page_has_every_figure_and_table(explored: Path) -> None:
    html = explored.read_text()
    without = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    for kind in ("pareto", "density", "curves", "breakdown"):
        assert f'<div class="drawn-{kind}">' in without
    assert without.count("<svg") > 10
    assert "hidden" not in re.findall(r'<div class="drawn-[^>]*>', without)[0]
