"""Rows that differ only in seeds: one line with mean, spread and number, and the latents that return."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from lmsae.errors import DamagedArtifact
from lmsae.metrics.matching import match_latents
from lmsae.report.plots import plots
from lmsae.report.results import read_results
from lmsae.report.seeds import group_seeds, match_seeds

if TYPE_CHECKING:
    from lmsae.artifacts.artifact import Artifact
    from tests.report.sweeps import Sweep

L0 = {"a-0": 4.0, "a-1": 5.0, "b-0": 7.0, "a-2": 7.5}


@pytest.fixture
def repeated(sweep: Sweep) -> Sweep:
    """Three seeds of one dictionary, and one of another."""
    for name, l0 in L0.items():
        settings = {"sae.k": 2 if name.startswith("a") else 3, "train.seed": int(name[-1])}
        sweep.add(name, {"l0": l0, "kl_div": math.nan if name == "a-2" else 0.5}, settings)
    return sweep


def rewrite(artifact: Artifact, name: str, **tensors: torch.Tensor) -> None:
    """Give an artifact other tensors, in a manifest that is true of them."""
    file = artifact.path / name
    save_file({**load_file(file), **{key.replace("__", "."): value for key, value in tensors.items()}}, file)
    artifact.publish({})


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "seeds.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_that_differ_only_in_seeds_are_one_line_with_mean_spread_and_number(repeated: Sweep) -> None:
    report = repeated.report().path
    a, b = lines(report)
    assert (a["name"], a["rows"], a["n"], a["sae.k"]) == ("a-0", "a-0 a-1 a-2", "3", "2")
    assert (b["name"], b["rows"], b["n"], b["sae.k"]) == ("b-0", "b-0", "1", "3")
    assert "train.seed" not in a
    values = [L0["a-0"], L0["a-1"], L0["a-2"]]
    assert float(a["mean.l0"]) == pytest.approx(5.5)
    assert float(a["std.l0"]) == pytest.approx(statistics.stdev(values)) == pytest.approx(math.sqrt(3.25))
    assert (b["mean.l0"], b["std.l0"], b["returning.share"]) == ("7.0", "", "")
    assert (a["mean.kl_div"], a["std.kl_div"]) == ("", ""), "one of them has no number"
    assert pq.read_table(report / "seeds.parquet")["n"].to_pylist() == [3, 1]
    with open(report / "table.csv", newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == list(L0), "and the table has a line a row"


@pytest.mark.slow
def test_the_page_has_a_table_of_seeds_where_there_are_some(repeated: Sweep, reported: Path) -> None:
    html = (repeated.report().path / "report.html").read_text()
    assert '<h2 id="seeds">' in html
    assert ">5.500 ± 1.8</td>" in html
    assert '<h2 id="seeds">' not in (reported / "report.html").read_text()


def test_latents_that_return_are_those_of_the_next_seed_and_dead_ones_do_not_count(repeated: Sweep) -> None:
    generator = torch.Generator().manual_seed(0)
    alive = {}
    for name in ("a-0", "a-1", "a-2"):
        (row,) = [row for row in repeated.rows if row.name == name]
        rows = torch.cat([torch.eye(4), torch.randn(4, 4, generator=generator)])
        density = (torch.rand(8, generator=generator) > 0.3).float()
        rewrite(repeated.artifacts[row.artifacts["train"]], "dictionary.safetensors", geometry__W_dec=rows)
        rewrite(repeated.artifacts[row.artifacts["eval"]], "latents.safetensors", density=density)
        alive[name] = rows[density > 0]
    a, b = match_seeds(group_seeds(read_results(repeated.config, repeated.inputs)), repeated.inputs)
    assert b.returning is None
    assert a.returning is not None
    pairs = (("a-0", "a-1"), ("a-1", "a-2"), ("a-2", "a-0"))
    matched = [match_latents(alive[one], alive[other]) for one, other in pairs]
    assert a.returning.share == pytest.approx(np.mean([one.share for one in matched]))
    assert a.returning.mean_max_cosine == pytest.approx(np.mean([one.mean_max_cosine for one in matched]))
    assert 0 < a.returning.share < 1
    assert {len(rows) for rows in alive.values()} != {8}, "some are dead"


def test_decoders_whose_bytes_have_changed_are_not_matched_but_named(repeated: Sweep) -> None:
    file = repeated.artifacts[repeated.rows[0].artifacts["train"]].path / "dictionary.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedArtifact, match=r"dictionary\.safetensors"):
        match_seeds(group_seeds(read_results(repeated.config, repeated.inputs)), repeated.inputs)


@pytest.mark.parametrize("decoder", [torch.zeros(8, 2, 4), torch.zeros(3, 4)])
def test_latents_without_one_decoder_row_each_are_not_matched(repeated: Sweep, decoder: torch.Tensor) -> None:
    rewrite(repeated.artifacts[repeated.rows[1].artifacts["train"]], "dictionary.safetensors", geometry__W_dec=decoder)
    a, _ = match_seeds(group_seeds(read_results(repeated.config, repeated.inputs)), repeated.inputs)
    assert (a.returning, len(a.results)) == (None, 3)


def test_lines_go_through_the_means_of_seeds_in_a_band_of_one_standard_deviation(repeated: Sweep) -> None:
    results = read_results(repeated.config, repeated.inputs)
    for number, result in enumerate(results):
        assert isinstance(result.metrics, dict)
        result.metrics["explained_variance"] = 0.8 + 0.01 * number
    found = {plot.kind: plot for plot in plots(results)}
    axes = found["pareto"].panels.axes[0]
    line = next(line for line in axes.lines if line.get_linestyle() == "-" and len(np.asarray(line.get_xydata())) == 2)
    means = [statistics.fmean([0.8, 0.81, 0.83]), 0.82]
    assert np.asarray(line.get_xydata()) == pytest.approx(np.array([[5.5, means[0]], [7.0, means[1]]]))
    (band,) = axes.collections
    assert np.asarray(band.get_paths()[0].vertices)[:, 1].max() == pytest.approx(
        means[0] + statistics.stdev([0.8, 0.81, 0.83])
    )
    legend = [entry for entry in found["curves"].panels.entries]
    assert len(legend) == 2, "one for the seeds, one for the other"
    assert len(found["curves"].panels.axes[0].lines) == 2
