"""One experiment: from a file, from the command line, and from Python."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
import yaml

import lmsae as package
from lmsae.errors import ConfigError, MissingPackage, TrainingError
from tests.miniature import CONFIG, ROWS, Said, manifests

EXPERIMENT: dict[str, Any] = {
    **{section: values for section, values in CONFIG.items() if section != "sae"},
    "sae": {"hook_point": "blocks.0.hook_resid_post", "architecture": "topk", "k": 4, "d_sae": 64},
}
# Said with a tab of each kind; TOML by hand, since the standard library only reads it.
TOML = "\n".join(
    [f"[{section}]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
     for section, fields in EXPERIMENT.items()]
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.toml", TOML),
        pytest.param("mine.yaml", yaml.safe_dump(EXPERIMENT), marks=pytest.mark.slow),
        pytest.param("mine.json", json.dumps(EXPERIMENT), marks=pytest.mark.slow),
    ],
)
def test_one_file_of_any_format_makes_what_the_same_row_of_a_sweep_makes(
    made: Path, lmsae: Callable[..., Said], name: str, text: str
) -> None:
    (made / name).write_text(text)
    (made / "config" / "config.yaml").unlink()
    said = lmsae("run", name)
    assert said.code == 0, said.err
    lines = said.err.splitlines()
    assert [line for line in lines if " 0 made" not in line] == ["report: 1 made, 0 there already"]


def test_an_experiments_own_runtime_is_the_one_that_counts(made: Path, lmsae: Callable[..., Said]) -> None:
    (made / "mine.json").write_text(json.dumps({**EXPERIMENT, "runtime": {"threads": 0}}))
    said = lmsae("run", "mine.json")
    assert (said.code, "mine.json, column runtime.threads: found 0" in said.err) == (2, True)


def test_run_from_python_gives_the_dictionary_the_metrics_and_the_folders(fresh: Path) -> None:
    made = package.run(EXPERIMENT, name="mine", artifacts="art", results="out")
    assert made.name == "mine"
    assert list(made.artifacts) == [
        "tokenize",
        "activations",
        "norm",
        "init",
        "train",
        "eval",
        "features",
        "page",
        "report",
    ]
    assert all((folder / "manifest.json").exists() for folder in made.artifacts.values())
    assert made.artifacts["train"].is_relative_to("art")
    assert made.results == Path("out")
    assert made.metrics["l0"] <= 4
    assert made.features.info.latents == 64
    assert isinstance(made, package.LoadedDictionary)
    loaded = package.load("mine", artifacts="art", results="out")
    assert loaded.artifacts == {stage: path for stage, path in made.artifacts.items() if stage != "report"}
    assert loaded.metrics == made.metrics
    codes = made.dictionary.encode(torch.randn(3, 16))
    assert codes.shape == (3, 64)
    assert (fresh / "out").is_dir()
    assert not (fresh / "artifacts").exists()


@pytest.mark.slow
def test_run_from_python_takes_a_file_and_makes_nothing_twice(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = manifests(made)
    (made / "mine.toml").write_text(TOML)
    experiment = package.run("mine.toml")
    assert experiment.name == "mine"
    assert set(manifests(made)) - set(before) == {f"report/{experiment.artifacts['report'].name}"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("fresh")
def test_run_from_python_raises_every_fault_at_once() -> None:
    wrong = {**EXPERIMENT, "trian": {"lr": 1}, "eval": {"tokens": 0}}
    with pytest.raises(ConfigError, match="3 faults found") as error:
        package.run(wrong, name="a/b")
    for part in ("experiment, column trian", "did you mean train", "experiment, column eval.tokens", "found 'a/b'"):
        assert part in str(error.value)


def test_importing_the_package_imports_only_its_version() -> None:
    code = "import sys, lmsae; print(*sorted(name for name in sys.modules if name.startswith('lmsae')))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lmsae", "lmsae.runtime", "lmsae.runtime.version"]


def test_every_public_name_of_the_package_is_there() -> None:
    functions = [name for name in package.__all__ if name != "__version__"]
    assert [getattr(package, name).__name__ for name in functions] == functions
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", package.__version__)
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        package.walk  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_an_experiment_beside_a_sweep_leaves_the_sweeps_plan_as_it_is(made: Path, lmsae: Callable[..., Said]) -> None:
    before = {path.name: path.read_bytes() for path in (made / "artifacts" / "plan").iterdir()}
    (made / "mine.json").write_text(json.dumps(EXPERIMENT))
    assert lmsae("run", "mine.json").code == 0
    assert before
    assert {path.name: path.read_bytes() for path in (made / "artifacts" / "plan").iterdir()} == before


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_three_experiments_from_python_leave_three_results_beside_those_of_the_sweep() -> None:
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}
    sae = {"hook_point": "blocks.0.hook_resid_post", "architecture": "topk", "d_sae": 64}
    made = [package.run({**EXPERIMENT, "sae": {**sae, "k": k}}) for k in (4, 5)]
    made.append(package.run({**EXPERIMENT, "sae": {**sae, "k": 5}}, name="five"))
    assert len({experiment.results for experiment in made}) == 3
    for experiment in made:
        assert experiment.results.parent == Path("results")
        link = experiment.results / "rows" / experiment.name / "train"
        assert link.resolve() == experiment.artifacts["train"].resolve()
        assert (experiment.results / "report.html").exists()
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()}.items() <= before.items()
    again = package.run({**EXPERIMENT, "sae": {**sae, "k": 4}}, name="five")
    assert again.results == made[2].results
    assert (again.results / "rows/five/train").resolve() == made[0].artifacts["train"].resolve()


@pytest.mark.slow
def test_gc_keeps_what_experiments_want(made: Path, lmsae: Callable[..., Said]) -> None:
    (made / "mine.json").write_text(json.dumps(EXPERIMENT))
    assert lmsae("run", "mine.json").code == 0
    before = manifests(made)
    assert "for mine.json" in lmsae("gc", "--delete").out
    assert manifests(made) == before


SWEEP: list[dict[str, Any]] = [
    {"name": "four", "sae.k": 4},
    {"name": "plain", "sae": {"architecture": "standard_new", "k": None, "l1_coefficient": 1}},
]


@pytest.mark.slow
def test_a_sweep_from_python_has_the_keys_of_its_rows_in_a_sheet_and_makes_nothing_twice(made: Path) -> None:
    row, before = ROWS[0], manifests(made)
    listed = {"name": row["name"], **{name: int(v) if v.isdigit() else v for name, v in row.items() if name != "name"}}
    found = package.sweep([listed, {**ROWS[2]}])
    assert set(manifests(made)) - set(before) == {f"report/{found['top'].artifacts['report'].name}"}
    for name in ("top", "plain"):
        theirs = (Path("results/rows") / name / "train").resolve()
        assert found[name].artifacts["train"].resolve() == theirs
        assert found[name].metrics == json.loads((Path("results/rows") / name / "eval/metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_sweep_from_python_trains_its_rows_in_one_pass_and_gives_a_table() -> None:
    found = package.sweep(SWEEP, EXPERIMENT, name="mine")
    assert (list(found.rows), found.failures, found.results) == (["four", "plain"], {}, Path("results/mine"))
    for row in found.rows.values():
        assert json.loads((row.artifacts["train"] / "run.json").read_text())["facts"]["in_pass"] == 2
        assert row.dictionary.encode(torch.randn(3, 16)).shape == (3, 64)
    table = found.table
    assert list(table["name"]) == ["four", "plain"]
    assert list(table["sae.architecture"]) == ["topk", "standard_new"]
    assert list(table["explained_variance"]) == [one.metrics["explained_variance"] for one in found.rows.values()]
    assert table["sae.k"][0] == 4
    assert table["sae.k"].isna()[1]
    assert list(table["error"]) == [None, None]
    assert polars.from_arrow(found.to_arrow()).shape == table.shape
    assert (found.results / "report.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_row_that_fails_is_told_and_costs_no_other_row_anything() -> None:
    """A learning rate beyond all numbers breaks training down."""
    found = package.sweep([*SWEEP[:1], {"name": "wild", "train.lr": 1e30}], EXPERIMENT)
    assert list(found.failures) == ["wild"]
    assert isinstance(found.failures["wild"], TrainingError)
    with pytest.raises(TrainingError):
        found["wild"]
    assert found["four"].metrics["l0"] <= 4
    assert set(found.rows["wild"].artifacts) == {"tokenize", "activations", "norm", "init"}
    table = found.table
    assert table["explained_variance"].isna().tolist() == [False, True]
    assert table["error"][1] == str(found.failures["wild"])
    assert (found.results / "report.html").exists()


@pytest.mark.usefixtures("fresh")
def test_a_sweep_from_python_raises_the_faults_of_all_rows_at_once() -> None:
    with pytest.raises(ConfigError, match="2 faults found") as error:
        package.sweep([{"sae.k": 0}, {"sae.kk": 1}, {}], EXPERIMENT)
    assert "rows, row row-1, column sae.k" in str(error.value)
    assert "rows, row row-2, column sae.kk" in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_a_table_without_pandas_says_how_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = package.sweep([{**ROWS[0]}])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackage, match="pip install pandas"):
        print(found.table)


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_lists_from_python_make_every_row_of_a_sweep_and_are_too_much_for_a_run() -> None:
    listed = package.sweep([{"name": "mine", "sae.k": [4, 5]}], EXPERIMENT, name="lists")
    assert list(listed.rows) == ["mine-k4", "mine-k5"]
    assert [row.metrics["l0"] <= k for row, k in zip(listed.rows.values(), (4, 5), strict=True)] == [True, True]
    single = package.sweep([{"name": "five", "sae.k": 5}], EXPERIMENT)
    assert listed["mine-k5"].artifacts["train"] == single["five"].artifacts["train"]
    assert {path.name for path in (listed.results / "rows").iterdir()} == {"mine-k4", "mine-k5"}
    with pytest.raises(ConfigError, match=r"its lists make 2 rows, and lmsae\.run makes one"):
        package.run({**EXPERIMENT, "sae": {**EXPERIMENT["sae"], "k": [4, 5]}}, name="mine")
