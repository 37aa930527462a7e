"""One experiment: from a file, from the command line, and from Python."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lmsae as package
from lmsae.errors import ConfigError
from tests.miniature import CONFIG, Said, manifests

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
    codes = made.dictionary.encode(torch.randn(3, 16))
    assert codes.shape == (3, 64)
    assert (fresh / "out").is_dir()
    assert not (fresh / "artifacts").exists()


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


def test_an_experiment_beside_a_sweep_leaves_the_sweeps_plan_as_it_is(made: Path, lmsae: Callable[..., Said]) -> None:
    before = {path.name: path.read_bytes() for path in (made / "artifacts" / "plan").iterdir()}
    (made / "mine.json").write_text(json.dumps(EXPERIMENT))
    assert lmsae("run", "mine.json").code == 0
    assert before
    assert {path.name: path.read_bytes() for path in (made / "artifacts" / "plan").iterdir()} == before


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


def test_gc_keeps_what_experiments_want(made: Path, lmsae: Callable[..., Said]) -> None:
    (made / "mine.json").write_text(json.dumps(EXPERIMENT))
    assert lmsae("run", "mine.json").code == 0
    before = manifests(made)
    assert "for mine.json" in lmsae("gc", "--delete").out
    assert manifests(made) == before


@pytest.mark.usefixtures("made")
def test_run_from_python_takes_lists_and_gives_every_row() -> None:
    sae = {**EXPERIMENT["sae"], "k": [4, 5]}
    made = package.run({**EXPERIMENT, "sae": sae}, name="mine")
    assert list(made.rows) == ["mine-k4", "mine-k5"]
    assert [row.metrics["l0"] <= k for row, k in zip(made.rows.values(), (4, 5), strict=True)] == [True, True]
    assert made.rows["mine-k4"].artifacts["train"] != made.rows["mine-k5"].artifacts["train"]
    assert (made.name, made.results, list(made.artifacts)) == ("mine", Path("results/mine"), ["report"])
    assert {path.name for path in (made.results / "rows").iterdir()} == {"mine-k4", "mine-k5"}
    with pytest.raises(KeyError, match="mine has no eval: choose one of its rows, mine-k4, mine-k5"):
        _ = made.metrics
    (row,) = package.run({**EXPERIMENT, "sae": {**sae, "k": [4]}}, name="mine").rows.items()
    assert row == ("mine-k4", made.rows["mine-k4"])
