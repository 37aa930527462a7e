"""Panels: a figure is a legend above a grid of panels, all of them at fixed places.

Nothing is measured to place them, so a figure is drawn once for each format. And as every place is known, the page can
cut the figure into its pieces and let them flow on a narrow screen.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# The page replaces these two by the colors of the reader's theme.
INK, FAINT = "#24292f", "#d0d7de"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.bottom": False,
    "ytick.left": False,
    "figure.dpi": 150,
}
WIDTH = 10.5
"""Of a figure, in inches."""
POINTS = 72
"""Points of an inch: the units of an SVG."""
ENTRY_WIDTH, ENTRY_HEIGHT, LINE_LENGTH, LETTER_WIDTH = WIDTH / 5, 0.22, 0.32, 0.085
"""Size of an entry of the legend, of the line in it, and of a wide letter, in inches."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The size of a panel and the margins around its axes, in inches."""

    width: float
    height: float
    left: float = 0.58
    right: float = 0.12
    top: float = 0.26
    bottom: float = 0.46


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a figure: the ids of its groups in the SVG, and x, y, width and height of its box in points, from the
    upper left corner."""

    groups: tuple[str, ...]
    box: tuple[float, float, float, float]


class Panels:
    """A figure of `count` panels in so many columns, below a legend of these lines by their labels, above a footer."""

    def __init__(
        self, count: int, columns: int, cell: Cell, legend: Sequence[Line2D] = (), footer: str | None = None
    ) -> None:
        self.columns, self.cell = columns, cell
        per_line = max(1, int(columns * cell.width / ENTRY_WIDTH))
        self._legend_height = ENTRY_HEIGHT * math.ceil(len(legend) / per_line)
        footer_height = ENTRY_HEIGHT if footer else 0
        self.height = self._legend_height + cell.height * math.ceil(count / columns) + footer_height
        self.figure = Figure(figsize=(columns * cell.width, self.height))
        if footer:
            self.figure.text(0.5, 0.06 / self.height, footer, ha="center")
        self.entries = [self._add_entry(line, i, per_line) for i, line in enumerate(legend)]
        self.axes: list[Axes] = []
        self.panels = [self._add_panel(i) for i in range(count)]

    def _add_entry(self, line: Line2D, number: int, per_line: int) -> Piece:
        x, y = (number % per_line) * ENTRY_WIDTH, (number // per_line) * ENTRY_HEIGHT
        middle = self.height - y - ENTRY_HEIGHT / 2
        line.set_data([x + 0.06, x + 0.06 + LINE_LENGTH / 2, x + 0.06 + LINE_LENGTH], [middle] * 3)
        line.set_markevery([1])
        line.set_transform(self.figure.dpi_scale_trans)
        text = self.figure.text(
            x + 0.14 + LINE_LENGTH, middle, str(line.get_label()), transform=line.get_transform(), va="center_baseline"
        )
        self.figure.add_artist(line)
        width = min(ENTRY_WIDTH, LINE_LENGTH + 0.14 + LETTER_WIDTH * len(text.get_text()))
        return self._piece((line, text), f"entry-{number}", (x, y, width, ENTRY_HEIGHT))

    def _add_panel(self, number: int) -> Piece:
        cell = self.cell
        x, y = (number % self.columns) * cell.width, (number // self.columns) * cell.height + self._legend_height
        size = cell.width - cell.left - cell.right, cell.height - cell.top - cell.bottom
        left, bottom = x + cell.left, self.height - y - cell.top - size[1]
        whole = self.columns * cell.width, self.height
        axes = self.figure.add_axes((left / whole[0], bottom / whole[1], size[0] / whole[0], size[1] / whole[1]))
        self.axes.append(axes)
        return self._piece((axes,), f"panel-{number}", (x, y, cell.width, cell.height))

    @staticmethod
    def _piece(artists: Sequence[Any], name: str, inches: tuple[float, float, float, float]) -> Piece:
        groups = tuple(f"{name}-{i}" for i in range(len(artists)))
        for artist, group in zip(artists, groups, strict=True):
            artist.set_gid(group)
        x, y, width, height = (POINTS * length for length in inches)
        return Piece(groups, (x, y, width, height))

    def save(self, path: Path) -> str:
        """Write `<path>.svg` and `<path>.png` and return the SVG's text."""
        # Ids are made of the salt: figures on one page must not share any.
        with matplotlib.rc_context({"svg.hashsalt": path.name}):
            self.figure.savefig(f"{path}.svg", metadata={"Date": None, "Creator": None})
            self.figure.savefig(f"{path}.png", metadata={"Software": None}, facecolor="white")
        return Path(f"{path}.svg").read_text()


def describe_axes(axes: Axes, title: str, x_label: str | None = None, **style: Any) -> None:
    """Give axes a title and a label below, at fixed places, so that nothing has to be measured for them."""
    axes.set_title(title, y=1.0, **style)
    if x_label:
        axes.set_xlabel(x_label)
        below = -0.31 / (axes.get_position().height * axes.figure.get_figure(root=True).get_size_inches()[1])
        axes.xaxis.set_label_coords(0.5, below)


def draw_line(
    axes: Axes, x: Sequence[float], y: Sequence[float], spread: Sequence[float], style: Any, **more: Any
) -> None:
    """Draw a line in a style, in a band as far from it as `spread` says, where that is a number."""
    axes.plot(x, y, **style, **more)
    if any(map(math.isfinite, spread)):
        low, high = (
            [a + sign * (b if math.isfinite(b) else 0) for a, b in zip(y, spread, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def cut(svg: str, pieces: Sequence[Piece]) -> list[Markup]:
    """Parts of a page, one for each piece of an SVG: 4 pixels for 3 points, no ids that nobody refers to, the theme's
    colors. The first has what all refer to, so they belong on one page."""
    groups = {name: text for text, name in re.findall(r'^(  <g id="([a-z]+-\d+-\d+)">\n.*?^  </g>\n)', svg, _LINES)}
    shared = "".join(re.findall(r"^ <defs>\n.*?^ </defs>\n", svg, _LINES))
    parts = []
    for number, piece in enumerate(pieces):
        body = (shared if number == 0 else "") + "".join(groups[name] for name in piece.groups)
        box = " ".join(f"{length:g}" for length in piece.box)
        parts.append(Markup(f'<svg width="{piece.box[2] * 4 / 3:.0f}" viewBox="{box}">{_adapt(body)}</svg>'))
    return parts


_LINES = re.DOTALL | re.MULTILINE


def _adapt(body: str) -> str:
    """The body of an SVG without ids that nobody refers to, in the page's font and the reader's theme."""
    body = re.sub(r' id="(?:[A-Za-z0-9.]+_\d+|[a-z]+-\d+-\d+)"', "", body)
    body = body.replace("'DejaVu Sans'", "var(--text-font)")
    for ours, theirs in ((INK, "var(--ink)"), (FAINT, "var(--line)"), ("fill: #ffffff", "fill: none")):
        body = body.replace(ours, theirs)
    return body
