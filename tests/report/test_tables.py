"""The report's tables, as the readers that people use see them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from lmsae.report.results import read_results
from lmsae.report.tables import of_one_type, write_tables

if TYPE_CHECKING:
    from tests.report.sweeps import Sweep

SETTINGS = {
    "small": {"sae.k": 8, "train.lr": 0.001, "sae.unit_norm_decoder": True},
    "middle": {"sae.k": 16, "train.lr": 1.0, "sae.unit_norm_decoder": False},
    "large": {"sae.k": 32, "train.lr": 1e-5, "sae.unit_norm_decoder": False},
    "other": {"sae.k": None, "sae.l1_coefficient": 1.0, "sae.losses": ["l1", "pre_act"], "train.lr": 0.5},
}


def ask_duckdb(query: str) -> list[Any]:
    """The lines that DuckDB answers a query with."""
    answer = duckdb.sql(query)
    assert answer is not None
    return answer.fetchall()


@pytest.fixture
def tables(sweep: Sweep, tmp_path: Path) -> Path:
    for name, settings in SETTINGS.items():
        sweep.add(name, settings={"sae.k": 1} | settings)
    write_tables(read_results(sweep.config, sweep.inputs), sweep.config.given, tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_reader_finds_the_rows_with_a_value_of_a_setting(tables: Path, kind: str) -> None:
    path = f"{tables}/table.{kind}"
    by_pandas = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
    by_polars = pl.read_csv(path) if kind == "csv" else pl.read_parquet(path)
    assert by_pandas[by_pandas["sae.k"] == 32]["name"].tolist() == ["large"]
    assert by_polars.filter(pl.col("sae.k") == 32)["name"].to_list() == ["large"]
    assert ask_duckdb(f"select name from '{path}' where \"sae.k\" = 32") == [("large",)]
    order = ["small", "middle", "large"]
    assert by_pandas.sort_values("sae.k")["name"].tolist() == [*order, "other"]
    assert by_polars.drop_nulls("sae.k").sort("sae.k")["name"].to_list() == order
    assert ask_duckdb(f"select name from '{path}' order by \"sae.k\"") == [(n,) for n in [*order, "other"]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_setting_is_a_number_a_truth_value_or_text_for_every_reader(tables: Path, kind: str) -> None:
    path = f"{tables}/table.{kind}"
    schema = (pl.read_csv(path) if kind == "csv" else pl.read_parquet(path)).schema
    described = {line[0]: line[1] for line in ask_duckdb(f"describe select * from '{path}'")}
    for name, polars, duck in (
        ("sae.k", pl.Int64, "BIGINT"),
        ("train.lr", pl.Float64, "DOUBLE"),
        ("sae.l1_coefficient", pl.Float64, "DOUBLE"),
        ("l0", pl.Float64, "DOUBLE"),
        ("sae.unit_norm_decoder", pl.Boolean, "BOOLEAN"),
        ("sae.losses", pl.String, "VARCHAR"),
        ("healthy", pl.Boolean, "BOOLEAN"),
    ):
        assert (schema[name], described[name]) == (polars, duck), name
    assert ask_duckdb(f"select \"sae.losses\" from '{path}' where name = 'other'") == [("l1 pre_act",)]


def test_every_reader_takes_curves_for_numbers(sweep: Sweep, tmp_path: Path) -> None:
    """Also where those of one dictionary are whole by chance for longer than readers look, or it has none."""
    for name, loss, values in (("topk", "aux_k_loss", "32.0,0.5"), ("standard", "l1_loss", "31.5,2.0")):
        row = sweep.add(name, settings={"sae.architecture": name})
        lines = [f"{step},{256 * (step + 1)},{values},{step % 3}" for step in range(150)]
        path = sweep.artifacts[row.artifacts["train"]].path / "curves.csv"
        path.write_text(f"step,tokens,l0,{loss},dead\n" + "\n".join(lines) + "\n")
    write_tables(read_results(sweep.config, sweep.inputs), sweep.config.given, tmp_path)
    path = f"{tmp_path}/curves.csv"
    whole, real = ("step", "tokens", "dead"), ("l0", "aux_k_loss", "l1_loss")
    by_polars, by_pandas = pl.read_csv(path), pd.read_csv(path)
    described = {line[0]: line[1] for line in ask_duckdb(f"describe select * from '{path}'")}
    for names, polars, pandas, duck in (
        (whole, pl.Int64, "int64", "BIGINT"),
        (real, pl.Float64, "float64", "DOUBLE"),
    ):
        assert {by_polars.schema[name] for name in names} == {polars}
        assert {str(by_pandas[name].dtype) for name in names} == {pandas}
        assert {described[name] for name in names} == {duck}
    assert by_polars["l1_loss"].is_nan().to_list() == [True] * 150 + [False] * 150
    assert [by_pandas["l0"][by_pandas["row"] == name].mean() for name in ("standard", "topk")] == [31.5, 32.0]


def test_a_column_has_one_type() -> None:
    assert of_one_type([1, None, 2]) == [1, None, 2]
    assert list(map(repr, of_one_type([1, None, 2.5]))) == ["1.0", "None", "2.5"]
    assert of_one_type(["auto", 0.001, None]) == ["auto", "0.001", None]
    assert of_one_type([True, "x"]) == ["true", "x"]
