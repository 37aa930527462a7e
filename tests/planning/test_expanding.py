"""Rows by rule: what they are, what they are called, and where their faults are told."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from lmsae.commands.doctoring import _read_forced
from lmsae.errors import ConfigError
from lmsae.planning.cells import Row
from lmsae.planning.plan import Plan, plan_of
from lmsae.planning.sheet import read
from tests.miniature import CONFIG as MINIATURE
from tests.miniature import ROWS, THERE, write_config, write_sweep

CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")
TOP = ROWS[0]


def rows_of(folder: Path, header: str, line: str, config: str = "") -> list[Row]:
    """The rows that a line of a sheet makes; bars stand for tabs."""
    faults = []
    (folder / "sweep.tsv").write_text(f"{header}\n{line}\n".replace("|", "\t"))
    (folder / "config.yaml").write_text(config)
    rows = read(folder / "config.yaml", folder / "sweep.tsv", [], faults)
    assert faults == []
    return rows


def values(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row.name, *(cell.value for cell in row.cells.values())) for row in rows]


def faults_of(sweep: list[dict[str, str]], **config: dict[str, Any]) -> list[str]:
    """The faults of a sheet of the miniature, as they are told."""
    write_sweep(Path(), sweep)
    write_config(Path(), **config)
    with pytest.raises(ConfigError) as error:
        plan_of(CONFIG, SWEEP, [], {})
    return [str(fault) for fault in error.value.faults]


def keys_of(plan: Plan) -> dict[str, dict[str, str]]:
    """The keys of every row, but for that of the report, which names the rows."""
    return {row.name: {stage: spec.key for stage, spec in row.specs.items()} for row in plan.rows}


def _toml(values: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())


# What a rule makes


@pytest.mark.usefixtures("fresh")
def test_one_line_makes_24_rows_with_the_keys_of_rows_written_out() -> None:
    hook, architectures, ks, seeds = "blocks.{}.hook_resid_post", ("topk", "batchtopk"), ("2", "4", "6"), ("0", "1")
    rule = {
        "name": "{sae.architecture}-l{l}-k{sae.k}-s{train.seed}",
        "sae.hook_point": hook.format("{l: 0..1}"),
        "sae.architecture": "{topk, batchtopk}",
        "sae.k": "{2, 4, 6}",
        "train.seed": "{0,1}",
    }
    single = [
        {"name": f"{architecture}-l{layer}-k{k}-s{seed}", "sae.hook_point": hook.format(layer)}
        | {"sae.architecture": architecture, "sae.k": k, "train.seed": seed}
        for layer, architecture, k, seed in itertools.product("01", architectures, ks, seeds)
    ]
    write_sweep(Path(), single)
    expected = plan_of(CONFIG, SWEEP, [], {})[0]
    write_sweep(Path(), [rule])
    plan = plan_of(CONFIG, SWEEP, [], {})[0]
    assert len(plan.rows) == 24
    assert keys_of(plan) == keys_of(expected)
    assert [row.name for row in plan.rows] == [row["name"] for row in single]
    assert [spec.key for spec in plan.specs("report")] == [spec.key for spec in expected.specs("report")]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("form", ["toml", "dict"])
def test_an_experiment_of_a_file_or_of_python_takes_lists_of_its_own_kind(form: str) -> None:
    single = [
        TOP | {"name": f"mine-layer{i}-k{k}", "sae.hook_point": f"blocks.{i}.hook_resid_post", "sae.k": k}
        for i, k in itertools.product("01", "24")
    ]
    write_sweep(Path(), single)
    expected = plan_of(CONFIG, SWEEP, [], {})[0]
    sae = {"hook_point": "blocks.{0..1}.hook_resid_post", "architecture": "topk", "k": [2, 4], "d_sae": 64}
    experiment: Any = {**MINIATURE, "sae": sae}
    if form == "toml":
        lines = [f"[{section}]\n{_toml(values)}" for section, values in experiment.items()]
        (experiment := Path("mine.toml")).write_text("\n".join(lines))
    plan = plan_of(experiment, None, [], {}, name="mine")[0]
    assert keys_of(plan) == keys_of(expected)


def test_the_last_list_of_a_row_moves_fastest(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "name|sae.k|train.seed", "a|{4,8}|{0..2}")
    assert values(rows)[1:4] == [("a-k4-seed1", "4", "1"), ("a-k4-seed2", "4", "2"), ("a-k8-seed0", "8", "0")]


def test_lists_of_one_name_move_together_and_a_reference_takes_the_value(tmp_path: Path) -> None:
    header, line = "name|sae.k|train.lr|sae.d_sae|dataset.name", "a|{v: 4, 8}|{v: 0.1, 0.2}|{64,128}|text/{v}.txt"
    rows = rows_of(tmp_path, header, line)
    assert values(rows) == [
        ("a-v4-d_sae64", "4", "0.1", "64", "text/4.txt"),
        ("a-v4-d_sae128", "4", "0.1", "128", "text/4.txt"),
        ("a-v8-d_sae64", "8", "0.2", "64", "text/8.txt"),
        ("a-v8-d_sae128", "8", "0.2", "128", "text/8.txt"),
    ]


def test_a_list_beside_other_text_leaves_cells_of_words_as_they_are(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "name|sae.hook_point|sae.losses", "a|blocks.0.x blocks.{1,2}.x|{l1 aux_k, l1}")
    assert values(rows) == [
        ("a-layer1-l1-aux_k", "blocks.0.x blocks.1.x", "l1 aux_k"),
        ("a-layer1-l1", "blocks.0.x blocks.1.x", "l1"),
        ("a-layer2-l1-aux_k", "blocks.0.x blocks.2.x", "l1 aux_k"),
        ("a-layer2-l1", "blocks.0.x blocks.2.x", "l1"),
    ]


def test_a_list_of_a_config_file_is_one_value_where_values_are_lists_and_several_elsewhere() -> None:
    faults = []
    written = {"sae": {"losses": ["l1", "aux_k"], "k": [4, 8], "hook_point": [["a", "b"], ["c"]]}}
    rows = read(written, None, [], faults, name="x")
    assert faults == []
    assert values(rows) == [
        ("x-k4-a-b", ["l1", "aux_k"], 4, ["a", "b"]),
        ("x-k4-c", ["l1", "aux_k"], 4, ["c"]),
        ("x-k8-a-b", ["l1", "aux_k"], 8, ["a", "b"]),
        ("x-k8-c", ["l1", "aux_k"], 8, ["c"]),
    ]


def test_braces_in_a_list_of_words_make_rows_of_several_words() -> None:
    faults = []
    rows = read({"sae": {"hook_point": ["blocks.0.x", "blocks.{1..2}.x"]}}, None, [], faults, name="x")
    assert (faults, values(rows)) == (
        [],
        [("x-layer1", "blocks.0.x blocks.1.x"), ("x-layer2", "blocks.0.x blocks.2.x")],
    )


def test_null_is_a_value_of_a_list_and_doubled_braces_are_braces(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "name|sae.k|dataset.name", "a|{null, 3}|a{{1}}.txt")
    assert values(rows) == [("a-k=null", None, "a{1}.txt"), ("a-k3", "3", "a{1}.txt")]


# Names


def test_the_name_of_any_row_may_be_made_of_its_values_shared_ones_too(tmp_path: Path) -> None:
    shared, line = "sae: {k: 4}\nmodel: {name: a/b}", "{sae.architecture}-{sae.k}-{model.name}|topk"
    (row,) = rows_of(tmp_path, "name|sae.architecture", line, shared)
    assert row.name == "topk-4-a-b"


def test_a_list_of_one_value_is_in_the_name_so_that_a_second_moves_no_name(tmp_path: Path) -> None:
    one, two = (rows_of(tmp_path, "name|train.seed", f"a|{{{seeds}}}") for seeds in ("0", "0,1"))
    assert [row.name for row in one] == ["a-seed0"]
    assert [row.name for row in two] == ["a-seed0", "a-seed1"]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("{true,false}", ["a-grid_search=true", "a-grid_search=false"]),
        ("{0.5,-1}", ["a-grid_search0.5", "a-grid_search-1"]),
    ],
)
def test_what_says_nothing_by_itself_stands_behind_its_column(tmp_path: Path, cell: str, names: list[str]) -> None:
    assert [row.name for row in rows_of(tmp_path, "name|init.grid_search", f"a|{cell}")] == names


# Faults


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ({"sae.k": "{4,"}, "row top, column sae.k: a { without its }"),
        ({"sae.k": "{kk}"}, "found {kk}, but no list of the row has this name. One value needs no braces"),
        ({"sae.k": "{v: 4, 5}", "train.seed": "{w}"}, "column train.seed: found {w}, but no list of the row has this"),
        ({"sae.k": "{v: 4, 5}", "train.seed": "{w}"}, "there is v"),
        ({"sae.k": "{v: 4, 5}", "train.seed": "{v: 0..2}"}, "train.seed: list v has 3 values here and 2 in sae.k"),
        ({"name": "{a,b}"}, "row {a,b}, column name: found '{a,b}': lists stand in other columns"),
        ({"name": "{sae.kk}"}, "column name: found {sae.kk}, but the row has no list of this name, and no value in"),
        ({"name": "{sae.kk}"}, "did you mean sae.k"),
        ({"name": "{sae.k}", "train.seed": "{0,1}"}, "row 1, column name: it makes two rows called '4'; name every"),
        ({"name": "-{sae.k}"}, "row 1, column name: found '-4'; a name is letters"),
        ({"train.seed": "{1..200}", "sae.k": "{1..200}"}, "its lists make 40,000 rows (200 x 200); a rule makes"),
    ],
)  # fmt: skip
def test_a_faulty_rule_is_told_at_its_place(cells: dict[str, str], fault: str) -> None:
    (told,) = faults_of([TOP | cells])
    assert told.startswith("config/sweep.tsv, row ")
    assert fault in told


@pytest.mark.usefixtures("fresh")
def test_a_fault_of_rows_of_a_rule_is_told_once_at_the_rule_and_names_the_rows() -> None:
    lists = {"sae.k": "{4,100}", "sae.hook_point": "blocks.{0,7}.hook_resid_post", "train.seed": "{0..3}"}
    told = faults_of([TOP | lists])
    assert len(told) == 2
    wide, beyond = sorted(told, key=lambda fault: "sae.hook_point" in fault)
    assert wide == (
        "config/sweep.tsv, row top (top-layer0-k100-seed0, top-layer0-k100-seed1, top-layer0-k100-seed2 and 5 more), "
        "column sae.k: k is 100, but there are only 64 latents"
    )
    assert beyond.startswith("config/sweep.tsv, row top (top-layer7-k4-seed0, ")
    assert "and 5 more), column sae.hook_point: " in beyond


@pytest.mark.usefixtures("fresh")
def test_a_fault_of_all_rows_of_a_rule_names_them_at_the_row() -> None:
    (told,) = faults_of([TOP | {"sae.k": "", "train.seed": "{0,1}"}])
    assert told.startswith("config/sweep.tsv, row top (top-seed0, top-seed1), column sae.k: topk needs it")


@pytest.mark.usefixtures("fresh")
def test_a_fault_of_an_experiment_names_the_row_of_the_rule() -> None:
    sae = {"hook_point": THERE, "architecture": ["topk", "tpok"], "d_sae": 64, "k": 4}
    with pytest.raises(ConfigError) as error:
        plan_of({**MINIATURE, "sae": sae}, None, [], {}, name="x")
    faults = [str(fault) for fault in error.value.faults]
    assert any(fault.startswith("experiment, row x-tpok, column sae.architecture: ") for fault in faults)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("value", [[0, 1], "{0..3}", "{a: 0..3}"])
def test_a_list_in_what_all_rows_of_a_sheet_share_is_refused(value: Any) -> None:
    (told,) = faults_of([TOP, TOP | {"name": "other", "sae.k": "5"}], train={"seed": value})
    assert told.startswith("config/config.yaml, column train.seed: a list makes rows, and here stands what rows share")
    assert "write it into a column of the sheet, as {0, 1, ...}" in told


@pytest.mark.usefixtures("fresh")
def test_a_shared_value_may_take_that_of_a_rows_list() -> None:
    write_config(Path(), sae={"d_sae": 64, "hook_point": "blocks.{l}.hook_resid_post"})
    write_sweep(Path(), [TOP | {"sae.hook_point": "", "sae.k": "4", "init.seed": "{l: 0,1}"}])
    plan = plan_of(CONFIG, SWEEP, [], {})[0]
    assert [row.settings["sae.hook_point"] for row in plan.rows] == [["blocks.0.hook_resid_post"], [THERE]]


@pytest.mark.usefixtures("fresh")
def test_rows_that_differ_in_nothing_that_means_something_to_them_are_refused() -> None:
    sae = {"hook_point": THERE, "architecture": "standard", "l1_coefficient": 1, "d_sae": 64, "k": [4, 5]}
    with pytest.raises(ConfigError) as error:
        plan_of({**MINIATURE, "sae": sae}, None, [], {}, name="x")
    (told,) = map(str, error.value.faults)
    assert told.startswith("experiment, row x (x-k5): is the same as row x-k4: nothing that differs between them")


def test_what_is_the_same_for_all_rows_takes_no_list() -> None:
    with pytest.raises(ConfigError) as error:
        _read_forced(["doctor.max_dead_share={0.1, 0.2}"])
    assert "--set: its lists make 2 rows, but thresholds are the same for all rows" in str(error.value)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({16: None, 32: None}, "braces without quotes are a mapping here; write [...]"),
        ([], "found a list without a value"),
        (["{1,2}", 3], "braces in a list"),
    ],
)
def test_a_list_of_a_config_file_that_cannot_be_read_is_refused(value: Any, fault: str) -> None:
    faults = []
    read({"sae": {"k": value}}, None, [], faults, name="x")
    (told,) = map(str, faults)
    assert told.startswith("experiment, column sae.k: ")
    assert fault in told


def test_a_sheet_of_too_many_rows_by_rules_is_refused_at_the_rule_that_is_too_much(tmp_path: Path) -> None:
    rules = "".join(f"{name}\t{{1..6000}}\n" for name in "abc")
    (tmp_path / "sweep.tsv").write_text(f"name\tsae.k\n{rules}")
    faults = []
    read({}, tmp_path / "sweep.tsv", [], faults)
    (told,) = map(str, faults)
    assert "row b: is the one beyond 10,000 rows that rules make in this sheet" in told
