"""Figures of panels: drawn once a format, and cut into pieces that a page can let flow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lmsae.report.panels import INK, STYLE, Cell, Panels, cut, describe_axes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def two_panels() -> Panels:
    legend = [Line2D([], [], color="red", marker="o", label=name) for name in ("one", "two")]
    panels = Panels(3, 2, Cell(2.0, 1.5), legend, footer="of a latent")
    for number, axes in enumerate(panels.axes):
        axes.plot([0, 1], [0, number], marker="o")
        describe_axes(axes, f"panel {number}", "tokens")
    return panels


def test_a_figure_is_drawn_once_for_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: drawn.append(1) or draw(figure, renderer))
    two_panels().save(tmp_path / "figure")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.svg", "figure.png"}
    assert len(drawn) == 2


def test_pieces_are_at_the_places_of_the_figure_and_hold_all_but_its_footer(tmp_path: Path) -> None:
    panels = two_panels()
    svg = panels.save(tmp_path / "figure")
    parts = cut(svg, [*panels.entries, *panels.panels])
    boxes = [[float(x) for x in re.findall(r'viewBox="([^"]*)"', part)[0].split()] for part in parts]
    assert [box[:2] for box in boxes[2:]] == [[0, 31.68], [144, 31.68], [0, 31.68 + 108]], "below a line for each entry"
    assert [box[2:] for box in boxes[2:]] == [[144, 108]] * 3
    texts = [re.findall(r">([^<>\n]+)</text>", part) for part in parts]
    assert texts[:2] == [["one"], ["two"]]
    assert all({f"panel {i}", "tokens"} <= set(found) for i, found in enumerate(texts[2:]))
    everything = re.findall(r">([^<>\n]+)</text>", svg)
    assert sorted(everything) == sorted(["of a latent", *(text for found in texts for text in found)])
    (width, height) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    assert (float(width), float(height)) == (288, pytest.approx(31.68 + 2 * 108 + 15.84))


def test_what_pieces_refer_to_is_in_one_of_them_once(tmp_path: Path) -> None:
    panels = two_panels()
    page = "".join(cut(panels.save(tmp_path / "figure"), [*panels.entries, *panels.panels]))
    ids = re.findall(r'\sid="([^"]*)"', page)
    referred = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    assert len(ids) == len(set(ids))
    assert set(ids) == referred
    assert INK not in page
    assert "var(--ink)" in page
