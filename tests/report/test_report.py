"""The report: its table, its figures and its page."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.losses import LOSSES
from lmsae.metrics.definitions import HISTOGRAM_BINS, METRICS, definition
from lmsae.report.main_metrics import MAIN_METRICS, in_order
from lmsae.report.page import number
from lmsae.report.plots import plots
from lmsae.report.results import SPARSITY_SETTINGS, read_results
from lmsae.report.tables import write_tables
from lmsae.report.writing import write_report

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_table_has_a_row_a_dictionary_with_settings_metrics_health_and_artifacts(reported: Path) -> None:
    good, weak = read(reported / "table.csv")
    assert (good["name"], good["sae.k"], good["train.lr"], good["l0"]) == ("good=1+1", "2", "", "4.25")
    assert (weak["name"], weak["sae.k"], weak["train.lr"], weak["l2_ratio"]) == ("weak", "3", "0.001", "0.5")
    assert (good["healthy"], good["findings"]) == ("True", "")
    assert (weak["healthy"], weak["findings"].split(":")[0]) == ("False", "shrinkage")
    assert weak["artifacts.train"] != good["artifacts.train"] == f"train/{good['artifacts.train'].partition('/')[2]}"
    header = list(good)
    assert (
        header.index("l0") < header.index("explained_variance") < header.index("dead_share") < header.index("healthy")
    )


def test_parquet_and_csv_hold_the_same_table(reported: Path) -> None:
    lines, table = read(reported / "table.csv"), pq.read_table(reported / "table.parquet")
    assert table.column_names == list(lines[0])
    assert table["l0"].to_pylist() == [4.25, 4.5] == [float(line["l0"]) for line in lines]
    assert table["dead"].to_pylist() == [0.0, 0.0]
    assert table["healthy"].to_pylist() == [True, False]


def test_plot_data_is_long_with_a_row_column(reported: Path) -> None:
    assert [(line["row"], line["l0"]) for line in read(reported / "pareto.csv")] == [
        ("good=1+1", "4.25"),
        ("weak", "4.5"),
    ]
    curves = read(reported / "curves.csv")
    assert [(c["row"], c["step"]) for c in curves] == [(row, str(i)) for row in ("good=1+1", "weak") for i in range(5)]
    assert curves[0]["tokens"] == "100"
    densities = read(reported / "density.csv")
    assert len(densities) == 2 * HISTOGRAM_BINS
    assert float(densities[0]["log10_density"]) == -5.95
    assert sum(int(line["latents"]) for line in densities) == 2 * 8


def test_standard_errors_stand_in_the_table_and_beside_it(reported: Path) -> None:
    good, _ = read(reported / "table.csv")
    assert (good["standard_error.l0"], good.get("standard_error.dead_share")) == ("0.01", None)
    assert json.loads((reported / "standard_errors.json").read_text())["weak"]["ce_difference"] == 0.01
    html = (reported / "report.html").read_text()
    assert "<dd>4.250 ± 0.01</dd>" in html
    assert ' data-value="4.25" title="± 0.01: the standard error over contexts"' in html


def test_bins_of_tokens_are_a_long_table(reported: Path) -> None:
    lines = read(reported / "breakdown.csv")
    assert [(line["row"], line["by"], line["from"], line["to"]) for line in lines[:4]] == [
        *(("good=1+1", "position", low, high) for low, high in (("0.0", "0.0"), ("1.0", "1.0"), ("2.0", "3.0"))),
        ("good=1+1", "token_frequency", "0.0", "0.001"),
    ]
    assert [line["l0"] for line in lines[:3]] == ["", "4.0", "5.0"]
    assert [line["standard_error.l0"] for line in lines[:3]] == ["", "0.2", "0.1"]
    assert pq.read_table(reported / "breakdown.parquet")["tokens"].to_pylist() == [9, 10, 20] * 4


def test_metrics_are_strict_json_by_row(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("one", {"l0": 4.0, "kl_div_score_mean": math.nan})
    write_tables(read_results(sweep.config, sweep.inputs), sweep.config.given, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert (metrics["one"]["l0"], metrics["one"]["kl_div_score_mean"]) == (4.0, None)


def test_a_row_has_a_file_of_its_main_metrics(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("one", {"l0": 4.0, "l2_ratio": math.nan})
    sweep.add("two", {"l0": 5.0})
    write_tables(read_results(sweep.config, sweep.inputs), sweep.config.given, tmp_path)
    every = json.loads((tmp_path / "metrics.json").read_text())
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "metrics").iterdir()}
    names = [metric.name for metric in MAIN_METRICS]
    assert found == {row: {name: every[row][name] for name in names} for row in ("one", "two")}
    assert (found["one"]["l0"], found["one"]["l2_ratio"], found["two"]["l0"]) == (4.0, None, 5.0)


@pytest.mark.slow
def test_two_reports_of_the_same_artifacts_are_the_same_bytes(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("one")
    sweep.add("two", {"explained_variance": -3.0, "dead": 3}, settings={"sae.architecture": "batchtopk"})
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_report(sweep.config, sweep.inputs, tmp_path / name)
    first = files(tmp_path / "first")
    assert first == files(tmp_path / "second")
    kinds = ("pareto-1", "density-1", "curves-1")
    assert {f"plots/{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")} <= first.keys()


def test_every_hook_point_has_figures_of_its_own_and_densities_come_in_pages(sweep: Sweep) -> None:
    for i in range(26):
        sweep.add(f"row-{i}", settings={"sae.hook_point": f"blocks.{i % 2}.hook_resid_post", "train.seed": str(i)})
    names = [plot.name for plot in plots(read_results(sweep.config, sweep.inputs))]
    assert names == [f"{kind}-{i}" for kind in ("pareto", "density", "curves", "breakdown") for i in (1, 2)]


def test_rows_that_differ_in_how_sparse_they_are_wanted_form_one_line(sweep: Sweep) -> None:
    """Whatever the loss: a sparsity penalty has its own weight, or an L0 to steer towards."""
    for value in ("0.1", "0.2"):
        sweep.add(f"tanh-{value}", settings={"sae.act_fn": "jumprelu", "sae.tanh_coefficient": value})
    sweep.add("seed", settings={"sae.act_fn": "jumprelu", "sae.tanh_coefficient": "0.2", "train.seed": "1"})
    sweep.add("other", settings={"sae.act_fn": "jumprelu", "sae.tanh_coefficient": "0.2", "train.lr": "1"})
    lines = [result.line for result in read_results(sweep.config, sweep.inputs)]
    assert lines[0] == lines[1] == lines[2] != lines[3]
    weights = {
        f"sae.{name}"
        for loss in LOSSES.values()
        if loss.sparsifies
        for name, info in loss.model_fields.items()
        if name.endswith("_coefficient") and info.is_required()
    }
    assert {"sae.k", "sae.target_l0", *weights} - {"sae.target_l0_coefficient"} == SPARSITY_SETTINGS


@pytest.mark.slow
def test_what_is_measured_at_one_of_several_hook_points_stands_in_the_table_and_on_the_page(sweep: Sweep) -> None:
    metric = "explained_variance[blocks.1.hook_mlp_out]"
    sweep.add("one")
    where = "blocks.0.hook_resid_post -> blocks.1.hook_resid_post"
    sweep.add("several", {metric: 0.875}, {"sae.architecture": "clt", "sae.hook_point": where})
    report = sweep.report().path
    one, several = read(report / "table.csv")
    assert (one[metric], several[metric]) == ("", "0.875")
    assert several["sae.hook_point"] == where
    html = (report / "report.html").read_text()
    said = f"At blocks.1.hook_mlp_out: {METRICS['explained_variance']}"
    assert f'<div title="{said}"><dt>{metric}</dt>' in html
    assert where.replace(">", "&gt;") in html


def test_a_row_without_results_is_named_on_the_page_and_stands_in_no_table(sweep: Sweep, tmp_path: Path) -> None:
    for name in ("good", "<untrained>", "unscored"):
        sweep.add(name)
    there = {name: one for name, one in sweep.inputs.items() if "<" not in name and name != "eval/unscored"}
    write_report(sweep.config, there, tmp_path)
    assert [line["name"] for line in read(tmp_path / "table.csv")] == ["good"]
    html = (tmp_path / "report.html").read_text()
    assert ">2 missing</span> &lt;untrained&gt; (not trained), unscored (not evaluated)</p>" in html
    assert "row-unscored" not in html


@pytest.mark.slow
def test_a_row_of_nulls_is_drawn_and_judged(sweep: Sweep) -> None:
    """As of a hook point that never varies."""
    none: dict[str, float] = dict.fromkeys(
        ("explained_variance", "ce_loss_score_mean", "ce_loss_score_zero", "l2_ratio"), math.nan
    )
    sweep.add("constant", none)
    (line,) = read(sweep.report().path / "table.csv")
    assert (line["explained_variance"], line["healthy"]) == ("", "False")


def test_a_row_links_to_the_page_of_its_latents_where_there_is_one(sweep: Sweep, tmp_path: Path) -> None:
    for name in ("one", "two", "a<b"):
        row = sweep.add(name)
        sweep.rows[-1] = row.model_copy(update={"artifacts": {**row.artifacts, "page": f"page/{name}"}})
    pages = {f"page/{name}": Artifact(tmp_path) for name in ("two", "a<b")}
    write_report(sweep.config, {**sweep.inputs, **pages}, tmp_path)
    (listed,) = re.findall(
        r'<script type="application/json" id="pages">(.*?)</script>', (tmp_path / "report.html").read_text()
    )
    assert json.loads(listed) == ["two", "a<b"]
    page = (tmp_path / "report.html").read_text()
    assert '<a class="latents" href="rows/two/page/index.html">latents</a>' in page
    assert "rows/two/page/" in page
    assert "rows/one/page/" not in page
    assert "rows/one/train/" in page


def test_curves_are_those_of_the_dictionaries_among_the_inputs(sweep: Sweep, tmp_path: Path) -> None:
    """And not of any folder that lies beside the evaluation."""
    sweep.add("one")
    elsewhere = Artifacts(tmp_path / "elsewhere").add(Spec(stage="train", version=1, config={}, inputs={}))
    (elsewhere.path / "curves.csv").write_text("step,tokens,loss\n1,256,0.5\n")
    (result,) = read_results(sweep.config, {**sweep.inputs, "train/one": elsewhere})
    assert result.curves == {"step": [1], "tokens": [256], "loss": [0.5]}


def test_main_metrics_come_first_and_have_definitions() -> None:
    names = [metric.name for metric in MAIN_METRICS]
    assert all(definition(name) for name in names)
    assert in_order(["mse", "mse[here]", "l1", *reversed(names)]) == [*names, "mse", "l1", "mse[here]"]


def test_whatever_a_setting_holds_is_escaped(sweep: Sweep) -> None:
    bad = "<script>alert(1)</script>&\"'"
    sweep.add("one", settings={"dataset.name": bad, "sae.architecture": bad})
    sweep.add("two")
    html = (sweep.report().path / "report.html").read_text()
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert bad not in html


def markup_of(report: Path) -> str:
    """The page without what stands in its scripts. A browser sees to those in tests/report/test_explorer.py."""
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", (report / "report.html").read_text(), flags=re.DOTALL)


def test_the_page_needs_no_other_file_to_be_seen(reported: Path) -> None:
    html = markup_of(reported)
    assert not re.search(r"""<(?:script|img|link|iframe)[^>]*\s(?:src|href)=|@import|url\((?!#)""", html)
    assert html.count("<svg") > 5


def test_ids_on_the_page_are_unique_and_every_reference_is_met(reported: Path) -> None:
    html = markup_of(reported)
    ids = re.findall(r'\sid="([^"]*)"', html)
    referred = {unquote(a or b) for a, b in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', html)}
    assert len(set(ids)) == len(ids)
    assert {"table", "row-weak"} <= referred <= set(ids)


def test_the_page_links_each_row_to_its_artifacts_and_explains_each_metric(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    assert 'href="rows/good%3D1%2B1/train/"' in html
    _, _, definitions = html.partition('id="definitions"')
    measured = {name for metrics in json.loads((reported / "metrics.json").read_text()).values() for name in metrics}
    assert {"l0", "ce_difference"} < measured
    assert {*re.findall("<code>([^<]+)</code></td>", definitions)} == METRICS.keys() & measured


def test_the_page_marks_what_is_not_healthy(reported: Path) -> None:
    html = " ".join((reported / "report.html").read_text().split())
    assert "1 of 2 healthy" in html
    assert "l2_ratio is 0.5 (healthy: 0.8 to 1.1): reconstructions are shorter or longer" in html
    assert re.findall(r'class="n off" data-value="([^"]*)"', html) == ["0.5"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "12,345"),
        (4, "4"),
        (0.98765, "0.988"),
        (32.456, "32.46"),
        (1.5e-5, "1.5e-05"),
        (0.0, "0.000"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_short_for_people(value: float, text: str) -> None:
    assert number(value) == text
