"""Reading config.yaml, sweep.tsv and experiment files: what a cell means, and where a fault stands."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from lmsae.config import Frozen, read_cells
from lmsae.errors import ConfigError, Fault
from lmsae.initialization.config import InitConfig
from lmsae.planning.catalog import PIECES
from lmsae.planning.draft import Draft
from lmsae.planning.sheet import SECTIONS, Row, read, read_runtime, read_section
from lmsae.runtime.runtime import Runtime
from lmsae.training.config import TrainConfig


def rows_of(folder: Path, sweep: str, config: str = "", *overrides: str) -> list[Row]:
    rows, faults = attempt(folder, sweep, config, *overrides)
    assert faults == []
    return rows


def faults_of(folder: Path, sweep: str, config: str = "", *overrides: str) -> list[str]:
    return [str(fault).replace(f"{folder}/", "") for fault in attempt(folder, sweep, config, *overrides)[1]]


def attempt(folder: Path, sweep: str, config: str, *overrides: str) -> tuple[list[Row], list[Fault]]:
    (folder / "sweep.tsv").write_text(sweep)
    (folder / "config.yaml").write_text(config)
    faults: list[Fault] = []
    return read(folder / "config.yaml", folder / "sweep.tsv", overrides, faults), faults


def values(row: Row) -> dict[str, Any]:
    return {name: cell.value for name, cell in row.cells.items()}


def test_a_row_takes_its_own_cells_over_the_shared_ones_and_flags_over_both(tmp_path: Path) -> None:
    config = "train: {lr: 0.1, tokens: 10, seed: 3}"
    one, two = rows_of(tmp_path, "name\ttrain.lr\ttrain.seed\na\t0.2\t\nb\t\t5\n", config, "train.seed=7")
    assert values(one) == {"train.lr": "0.2", "train.tokens": 10, "train.seed": "7"}
    assert values(two) == {"train.lr": 0.1, "train.tokens": 10, "train.seed": "7"}


def test_comments_and_empty_lines_are_passed_over_and_null_means_no_value(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "# mine\nname\ttokenize.tokens\n\n# a comment\na\tnull\n", "tokenize: {tokens: 9}")
    assert values(row) == {"tokenize.tokens": None}


def test_a_sheet_from_a_spreadsheet_is_read_the_same(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, '\ufeffname\ttrain.lr\r\n"a"\t 0.2 \r\n')
    assert (row.name, values(row)) == ("a", {"train.lr": "0.2"})


def test_spaces_around_columns_and_empty_cells_at_the_end_mean_nothing(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "name \t train.lr\t\t\na\t0.2\t\t\n\t\t\n  \n # a comment\n")
    assert (row.name, values(row)) == ("a", {"train.lr": "0.2"})


def test_words_that_old_yaml_takes_for_true_and_false_are_words(tmp_path: Path) -> None:
    config = "dataset: {subset: no}\ninit: {grid_search: true, from_model: off}\nruntime: {wandb: {mode: off}}\n"
    (row,) = rows_of(tmp_path, "name\na\n", config)
    assert values(row) == {"dataset.subset": "no", "init.grid_search": True, "init.from_model": "off"}
    section = read_section(row, "init", row.section("init"), Draft(row, []).refuse)
    assert isinstance(section, InitConfig)
    assert section.from_model is False
    faults: list[Fault] = []
    assert read_runtime(tmp_path / "config.yaml", {}, faults).wandb.mode == "off"
    assert faults == []


@pytest.mark.parametrize(
    ("section", "column", "cell", "value"),
    [
        ("train", "lr", "1e-3", 0.001),
        ("train", "tokens", "1_000_000", 1_000_000),
        ("train", "lr_warm_up_steps", "1", 1),
        ("train", "lr_warm_up_steps", "1.0", 1.0),
        ("train", "lr_warm_up_steps", "0.05", 0.05),
        ("train", "lr_warm_up_steps", "0.050", 0.05),
        ("train", "tokens", "32.0", 32),
        ("sae", "d_sae", "100.0", 100),
        ("init", "grid_search", "false", False),
        ("sae", "losses", "l1 aux_k", ("l1", "aux_k")),
        ("sae", "losses", "l1, aux_k", ("l1", "aux_k")),
        ("tokenize", "tokens", None, None),
    ],
)
def test_a_cell_means_what_the_same_text_means_in_yaml(section: str, column: str, cell: Any, value: Any) -> None:
    needed = {"train": {"tokens": 1}, "sae": {"hook_point": "x"}}.get(section, {})
    faults: list[Fault] = []
    row = Row("a", "sweep.tsv")
    made = read_section(row, section, {**needed, column: cell}, Draft(row, faults).refuse)
    assert faults == []
    found = getattr(made, column)
    assert (found, type(found)) == (value, type(value))


def whole_numbers() -> list[tuple[type[Frozen], str]]:
    """Every field of a section, or of a part of a dictionary, that may be a whole number."""
    models = [*SECTIONS.values(), Runtime, *(piece for pieces in PIECES.values() for piece in pieces.values())]
    fields = [(model, name, info.annotation) for model in models for name, info in model.model_fields.items()]
    return [(model, name) for model, name, kind in fields if int in (kind, *get_args(kind))]


@pytest.mark.parametrize(("model", "name"), whole_numbers())
def test_no_whole_number_may_have_points_between_thousands(model: type[Frozen], name: str) -> None:
    with pytest.raises(ValidationError, match="a point does not separate thousands: write 100000 or 100_000, or else"):
        read_cells(model, {name: "100.000"})


@pytest.mark.parametrize("place", ["sheet", "yaml", "toml", "json", "--set"])
def test_points_between_thousands_are_seen_wherever_a_number_stands(tmp_path: Path, place: str) -> None:
    written = {
        "toml": "train = {tokens = 100.000}",
        "yaml": "train: {tokens: 100.000}",
        "json": '{"train": {"tokens": 100.000}}',
    }
    config = tmp_path / f"config.{place if place in written else 'yaml'}"
    config.write_text(written.get(place, ""))
    (tmp_path / "sweep.tsv").write_text("name\ttrain.tokens\na\t100.000\n" if place == "sheet" else "name\na\n")
    faults: list[Fault] = []
    (row,) = read(config, tmp_path / "sweep.tsv", ["train.tokens=100.000"] if place == "--set" else [], faults)
    read_section(row, "train", row.section("train"), Draft(row, faults).refuse)
    (said,) = faults
    assert said.column == "train.tokens"
    assert said.message.startswith("found '100.000'; a point does not separate thousands: write 100000")


@pytest.mark.parametrize("name", ["config.toml", "config.yaml", "config.json"])
def test_a_fraction_may_be_written_so(tmp_path: Path, name: str) -> None:
    written = {"config.toml": "train = {lr = 100.000, tokens = 1}", "config.yaml": "train: {lr: 100.000, tokens: 1}"}
    (tmp_path / name).write_text(written.get(name, '{"train": {"lr": 100.000, "tokens": 1}}'))
    (row,) = read(tmp_path / name, None, [], [])
    section = read_section(row, "train", row.section("train"), Draft(row, []).refuse)
    assert isinstance(section, TrainConfig)
    assert section.lr == 100.0


@pytest.mark.parametrize(
    ("section", "column", "cell", "message"),
    [
        ("train", "tokens", "1.500.000", "write 1500000 or 1_500_000"),
        ("train", "lr_warm_up_steps", "1.000", "write 1000 or 1_000, or else 1.0"),
        ("train", "encoder_lr_factor", "0,001", "a number has a point and no comma: write 0.001"),
        ("train", "dead_threshold", 10**29, "wanted: a number of at most 9,223,372,036,854,775,807"),
        ("train", "dead_threshold", "1" + 29 * "0", "wanted: a number of at most 9,223,372,036,854,775,807"),
        ("dataset", "name", "a\0b", "it holds a NUL character"),
        ("model", "others", ["a\0b"], "it holds a NUL character"),
        ("dataset", "name", "a\ud800", "character 2 is half a surrogate pair"),
    ],
)
def test_a_cell_that_computers_read_in_another_way_is_refused(
    section: str, column: str, cell: Any, message: str
) -> None:
    needed = {"train": {"tokens": 1}}.get(section, {})
    faults: list[Fault] = []
    read_section(Row("a", "sweep.tsv"), section, {**needed, column: cell}, Draft(Row("a", "s"), faults).refuse)
    assert [fault.column for fault in faults] == [f"{section}.{column}"]
    assert message in faults[0].message


def test_all_faulty_cells_of_a_section_are_told_at_once() -> None:
    faults: list[Fault] = []
    cells = {"seed": "1.000", "lr": "0,1", "optimizer": "adma", "lr_warm_up_steps": 2.5, "batch_size": "0"}
    read_section(Row("a", "sweep.tsv"), "train", cells, Draft(Row("a", "s"), faults).refuse)
    assert {fault.column for fault in faults} == {f"train.{name}" for name in (*cells, "tokens")}


@pytest.mark.parametrize(
    ("sweep", "config", "fault"),
    [
        ("name\ttrain.lrr\na\t1\n", "", "sweep.tsv, column train.lrr: there is no such column; did you mean train.lr"),
        ("name\tzzzzzz\na\t1\n", "", "column zzzzzz: there is no such column. config/README.md lists them all ("),
        (
            "name\truntime.threads\na\t1\n",
            "",
            "column runtime.threads: says how to work, which no row does: write",
        ),
        ("name\ttrain.lr\ttrain.lr\na\t1\t2\n", "", "column train.lr: stands twice in the header"),
        ("train.lr\n1\n", "", "column name: is missing from the header"),
        ("name\ttrain.lr\na\t1\na\t2\n", "", "sweep.tsv, row 2, column name: 'a' is the name of row 1 too"),
        ("name\n../a\n", "", "sweep.tsv, row 1, column name: found '../a'; a name is letters"),
        ("name\ttrain.lr\na\t1\t2\n", "", "sweep.tsv, row a: has 3 cells, not 2"),
        ("name\na\n", "trian: {lr: 1}", "config.yaml, column trian: there is no such section"),
        (
            "name\na\n",
            "train: {lrr: 1}",
            "config.yaml, column train.lrr: there is no such field; did you mean train.lr",
        ),
        ("name\na\n", "train: 3", "config.yaml, column train: found 3; wanted fields"),
        ("name\na\n", "3: {lr: 1}", "config.yaml, column 3: there is no such section"),
    ],
)
def test_a_fault_names_its_place_and_what_was_meant(tmp_path: Path, sweep: str, config: str, fault: str) -> None:
    (found, *_) = faults_of(tmp_path, sweep, config)
    assert fault in found


def test_a_flag_over_all_rows_is_no_way_to_say_how_to_work(tmp_path: Path) -> None:
    (found,) = faults_of(tmp_path, "name\na\n", "", "runtime.threads=2")
    assert found.startswith("--set, column runtime.threads: says how to work, which no row does: ")
    assert found.endswith("write threads under runtime in the config file")


@pytest.mark.parametrize(
    ("text", "fault"),
    [("train.lr", "wanted section.field=value"), ("train.lrr=1", "did you mean train.lr,")],
)
def test_a_faulty_flag_is_named_as_one(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, "name\na\n", "", text)
    assert found.startswith("--set, column train.lr")
    assert fault in found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"train: [", "cannot be read"),
        ("config.toml", b"train = ", "cannot be read"),
        ("config.json", b"{", "cannot be read"),
        ("config.yaml", b"\xff\xfe\xff", "cannot be read"),
        ("config.yaml", b"train: {lr: 1}\ninit: {seed: 1}\ntrain: {tokens: 1}\n", "'train' stands there twice"),
        ("config.yaml", b"train: {lr: 1, tokens: 2, lr: 3}\n", "'lr' stands there twice"),
        ("config.json", b'{"train": {"lr": 1, "lr": 2}}', "'lr' stands twice"),
        ("config.yaml", b"a: " + b"[" * 5000 + b"]" * 5000, "nests too deeply"),
        ("config.yaml", b"{a: " * 5000 + b"1" + b"}" * 5000, "nests too deeply"),
        ("config.toml", b"a = " + b"[" * 5000 + b"]" * 5000, "nests too deeply"),
        ("config.json", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests too deeply"),
        ("config.yaml", b"- a\n- b\n", "holds a list; wanted sections of fields"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path / name, None, [], [])
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_a_path_with_nul_is_refused_as_a_file_that_cannot_be_read(suffix: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        read(Path(f"a\0b.{suffix}"), None, [], [])


@pytest.mark.parametrize(("content", "message"), [(b"", "has no rows"), (b"name\n", "has no rows"), (b"\xff", "UTF-8")])
def test_a_sheet_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "sweep.tsv").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read({}, tmp_path / "sweep.tsv", [], [])
    assert str(tmp_path / "sweep.tsv") in str(error.value)


@pytest.mark.parametrize("which", ["config.yaml", "sweep.tsv"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, which: str) -> None:
    (tmp_path / ("sweep.tsv" if which == "config.yaml" else "config.yaml")).write_text("")
    with pytest.raises(ConfigError, match=f"{which}: there is no such file"):
        read(tmp_path / "config.yaml", tmp_path / "sweep.tsv", [], [])


def test_a_rule_about_several_fields_is_a_fault_of_the_row() -> None:
    faults: list[Fault] = []
    row = Row("a", "sweep.tsv")
    read_section(row, "tokenize", {"tokens": 10, "context_size": 32}, Draft(row, faults).refuse)
    assert [str(fault) for fault in faults] == [
        "sweep.tsv, row a: tokenize: tokens 10 is less than one context of context_size 32"
    ]


def test_every_section_refuses_a_field_that_it_does_not_know() -> None:
    assert all(model.model_config.get("extra") == "forbid" for model in SECTIONS.values())


def test_the_runtime_is_the_files_with_flags_over_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"runtime": {"threads": 2, "device": "cpu"}}))
    faults: list[Fault] = []
    runtime = read_runtime(tmp_path / "config.json", {"threads": 3}, faults)
    assert (runtime.threads, runtime.device, faults) == (3, "cpu", [])


@pytest.mark.parametrize(
    ("config", "flags", "fault"),
    [
        ({"runtime": {"thread": 2}}, {}, "experiment, column runtime.thread: found 2"),
        ({"runtime": {"threads": 0}}, {}, "experiment, column runtime.threads: found 0"),
        ({"runtime": {"wandb": {"mode": "onlin"}}}, {}, "experiment, column runtime.wandb.mode: found 'onlin'"),
        (
            {"runtime": {"artifacts": "a\0b"}},
            {},
            "experiment, column runtime.artifacts: found 'a\\x00b'; it holds a NUL",
        ),
        ({"runtime": {"threads": "1.000"}}, {}, "runtime.threads: found '1.000'; a point does not separate thousands"),
        ({"runtime": {3: 1}}, {}, "experiment, column runtime.3"),
        ({"runtime": [1]}, {}, "experiment, column runtime: found [1]"),
        ({}, {"threads": 0}, "command line, column runtime.threads: found 0"),
    ],
)
def test_a_fault_of_the_runtime_is_one_like_any_other(config: dict, flags: dict, fault: str) -> None:
    faults: list[Fault] = []
    read_runtime(config, flags, faults)
    assert fault in str(faults[0])


@pytest.mark.parametrize(("separator", "named"), [(",", "commas"), (";", "semicolons"), (" ", "spaces")])
def test_a_sheet_without_tabs_is_told_so(tmp_path: Path, separator: str, named: str) -> None:
    sweep = "name\tsae.k\ntop\t4\n".replace("\t", separator)
    with pytest.raises(ConfigError, match=rf"sweep\.tsv: its first line has {named} between the columns; wanted tabs"):
        attempt(tmp_path, sweep, "")
