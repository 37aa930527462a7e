"""The figures of results: what each shows, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lmsae.report.plots import Plot, plots
from lmsae.report.results import Result, read_results

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep


@pytest.fixture
def result(sweep: Sweep) -> Result:
    sweep.add("one")
    (found,) = read_results(sweep.config, sweep.inputs)
    return found


def curves_of(result: Result, **curves: list[float]) -> Plot:
    """The figure of the training curves of a result, some of them these."""
    (plot,) = [
        p
        for p in plots([replace(result, case=replace(result.case, curves={**result.curves, **curves}))])
        if p.kind == "curves"
    ]
    return plot


def test_dead_latents_have_a_panel_where_there_are_some(result: Result) -> None:
    titles = [axes.get_title(loc="left") for axes in curves_of(result).panels.axes]
    assert titles == ["Loss", "Explained variance", "L0"]
    some = curves_of(result, dead=[0, 0, 3, 0, 0]).panels.axes
    assert some[-1].get_title(loc="left") == "Dead latents"


def test_the_loss_has_a_bar_where_the_loss_on_dead_latents_sets_in(result: Result) -> None:
    def bars(aux_k: list[float]) -> list[tuple[float, float]]:
        loss = curves_of(result, aux_k_loss=aux_k).panels.axes[0]
        marked = [line for line in loss.lines if line.get_marker() == "|"]
        return [tuple(np.asarray(line.get_xydata())[0].tolist()) for line in marked]

    assert bars([0, 0, 0, 0, 0]) == bars([0.1, 0.2, 0.1, 0.1, 0.1]) == [], "never, or from the first step on"
    assert bars([0, 0, 0.25, 0, 0.5]) == [(result.curves["tokens"][2], result.curves["loss"][2])]


def test_tokens_are_written_as_everywhere(result: Result) -> None:
    for axes in curves_of(result, tokens=[1e5, 2e5, 3e5, 1.5e6, 2e6]).panels.axes:
        ticks = [axes.xaxis.get_major_formatter()(tick) for tick in (0, 5e5, 2e6)]
        assert ticks == ["0", "500 k", "2 M"]


def test_metrics_in_the_course_of_training_have_a_figure_where_some_were_wanted(result: Result) -> None:
    along = {
        "steps": [8, 16],
        "tokens": [2048, 4096],
        "explained_variance": [0.5, 0.75],
        "l0": [4.0, 4.0],
        "ce_loss_score_mean": [0.25, 0.5],
        "ce_difference": [0.5, 0.25],
    }
    assert "along" not in [plot.kind for plot in plots([result])]
    (plot,) = [plot for plot in plots([result, replace(result, name="two", along=along)]) if plot.kind == "along"]
    titles = [axes.get_title(loc="left") for axes in plot.panels.axes]
    assert titles == ["Explained variance", "L0", "CE loss score", "CE difference"]
    (line,) = plot.panels.axes[2].lines
    assert np.asarray(line.get_xydata()).tolist() == [[2048, 0.25], [4096, 0.5]]


def test_bins_have_a_line_and_a_band_of_one_standard_error(result: Result) -> None:
    (plot,) = [p for p in plots([result]) if p.kind == "breakdown"]
    axes = plot.panels.axes
    assert [a.get_title(loc="left") for a in axes[1::3]] == ["L0 by position", "L0 by token frequency"]
    for panel, x in ((axes[1], [1, 2, 12**0.5]), (axes[4], [0.001, 0.0002**0.5, 0.03**0.5])):
        xy = np.asarray(panel.lines[0].get_xydata())
        assert xy[:, 0] == pytest.approx(x)
        assert xy[1:, 1].tolist() == [4.0, 5.0]
        (band,) = panel.collections
        corners = {tuple(point) for point in np.asarray(band.get_paths()[0].vertices).round(9).tolist()}
        assert {(round(x[1], 9), 3.8), (round(x[1], 9), 4.2), (round(x[2], 9), 5.1)} <= corners
