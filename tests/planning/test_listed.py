"""Rows that Python lists: they mean what the same cells of a sheet mean, and a fault names its row and column."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmsae.errors import ConfigError, Fault
from lmsae.planning.listed import read_list
from lmsae.planning.sheet import Row

SHARED: dict[str, Any] = {"train": {"lr": 0.1, "tokens": 10}}


def rows_of(*rows: dict[str, Any]) -> list[Row]:
    faults: list[Fault] = []
    found = read_list(rows, SHARED, faults)
    assert faults == []
    return found


def faults_of(*rows: dict[str, Any]) -> list[str]:
    faults: list[Fault] = []
    read_list(rows, SHARED, faults)
    return [str(fault) for fault in faults]


def values(row: Row) -> dict[str, Any]:
    return {name: cell.value for name, cell in row.cells.items()}


def test_a_row_by_dotted_names_is_the_row_by_sections_and_both_may_be_mixed() -> None:
    written = (
        {"name": "a", "train.lr": 0.2, "train.seed": 3, "sae.k": 4},
        {"name": "a", "train": {"lr": 0.2, "seed": 3}, "sae": {"k": 4}},
        {"name": "a", "train": {"lr": 0.2}, "train.seed": 3, "sae.k": 4},
    )
    for row in written:
        (found,) = rows_of(row)
        assert values(found) == {"train.lr": 0.2, "train.tokens": 10, "train.seed": 3, "sae.k": 4}
        assert found.own_columns == {"train.lr", "train.seed", "sae.k"}


def test_none_stands_for_an_empty_value_over_a_shared_one_and_rows_without_a_name_get_one() -> None:
    one, two = rows_of({"train.tokens": None}, {})
    assert [one.name, two.name] == ["row-1", "row-2"]
    assert values(one) == {"train.lr": 0.1, "train.tokens": None}


def test_a_number_of_numpy_is_the_number() -> None:
    (row,) = rows_of({"sae.k": np.int64(4), "train.lr": np.float64(0.5)})
    assert [type(row.cells[name].value) for name in ("sae.k", "train.lr")] == [int, float]


def test_a_shared_file_may_stand_in_the_place_of_a_dict(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text("train: {lr: 0.1}\nruntime: {threads: 1}\n")
    (row,) = read_list([{"sae.k": 4}], tmp_path / "shared.yaml", [])
    assert values(row) == {"train.lr": 0.1, "sae.k": 4}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"train.lrr": 1}, "rows, row row-1, column train.lrr: there is no such field; did you mean train.lr"),
        ({"trian": {"lr": 1}}, "rows, row row-1, column trian: there is no such section"),
        ({"train": 7}, "rows, row row-1, column train: found 7; wanted fields"),
        ({"train.lr": 1, "train": {"lr": 2}}, "rows, row row-1, column train.lr: stands twice in the row"),
        ({"name": "a/b"}, "rows, row a/b, column name: found 'a/b'"),
        ({"runtime.threads": 2}, "rows, row row-1, column runtime.threads: is the same for all rows"),
    ],
)
def test_a_fault_names_its_row_and_column(row: dict[str, Any], told: str) -> None:
    (fault,) = faults_of(row)
    assert fault.startswith(told)


def test_two_rows_of_one_name_are_refused() -> None:
    assert faults_of({"name": "a"}, {"name": "a"}) == ["rows, row 2, column name: 'a' is the name of row 1 too"]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="the list is empty"):
        rows_of()
