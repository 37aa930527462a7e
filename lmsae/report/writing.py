"""Writing a report: tables, plots and the page, the same bytes for the same artifacts."""

from collections.abc import Mapping
from pathlib import Path

from lmsae.artifacts.artifact import Artifact
from lmsae.report.matched import match_l0, write_matches
from lmsae.report.page import Illustration, page
from lmsae.report.panels import cut
from lmsae.report.plots import Plot, plots
from lmsae.report.results import Sweep, find_missing, read_results
from lmsae.report.seeds import group_seeds, match_seeds, write_seeds
from lmsae.report.tables import write_tables
from lmsae.runtime.memory import collect_new_garbage_only


def write_report(sweep: Sweep, inputs: Mapping[str, Artifact], out: Path) -> None:
    """Write the report of a sweep into `out`.

    `inputs` has each row's evaluation as `eval/<row>` and its dictionary, for the training curves, as `train/<row>`.
    A row that lacks one of them is named on the page, and stands nowhere else. The page links to `rows/<row>/<stage>`,
    which stands beside it once it is published to `results/`.
    """
    results = read_results(sweep, inputs)
    write_tables(results, sweep.given, out)
    groups = match_seeds(group_seeds(results), inputs)
    write_seeds(groups, sweep.given, out)
    matches = match_l0(results, sweep.given)
    write_matches(matches, out)
    (out / "plots").mkdir(exist_ok=True)
    with collect_new_garbage_only():
        illustrations = [_illustrate(plot, out / "plots") for plot in plots(results)]
    missing = find_missing(sweep.rows, inputs)
    (out / "report.html").write_text(
        page(results, groups, sweep.given, illustrations, missing, matches), encoding="utf-8"
    )


def _illustrate(plot: Plot, folder: Path) -> Illustration:
    """Write a figure's files, and cut it into the pieces that the page shows."""
    panels = plot.panels
    parts = cut(plot.save(folder), [*panels.entries, *panels.panels])
    count = len(panels.entries)
    width = round(96 * panels.cell.width)
    return Illustration(plot.kind, plot.title, parts[:count], parts[count:], panels.columns, width)
