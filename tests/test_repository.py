"""The repository keeps its own promises: import floors, light imports, dependencies, the wheel, the citation."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lmsae

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def tracked_files() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.xdist_group("repository")
def test_workers_keep_the_groups_of_tests(request: pytest.FixtureRequest) -> None:
    """A group's tests share a dear fixture. Were groups forgotten, each worker would make that fixture again."""
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    assert request.node.nodeid.endswith("@repository") == (in_worker and request.config.option.loadgroup)


def test_imports_go_down_the_floors_only() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize(
    "module", ["lmsae", "lmsae.config", "lmsae.planning.catalog", "lmsae.planning.plan", "lmsae.cli"]
)
def test_what_a_plan_needs_imports_nothing_heavy(module: str) -> None:
    heavy = "torch", "transformers", "transformer_lens", "datasets", "zarr", "pyarrow", "matplotlib", "wandb"
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_imported_package_is_a_declared_dependency() -> None:
    owners = {name: {canonicalize_name(o) for o in owner} for name, owner in packages_distributions().items()}
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["optimizers"], *extras["saelens"], *extras["kernels"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    undeclared = set()
    for file in (ROOT / "lmsae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lmsae"}:
                if not owners.get(name, {canonicalize_name(name)}) & declared:
                    undeclared.add(f"{file.relative_to(ROOT)} imports {name}")
    assert not undeclared


def test_the_lock_pins_every_dependency_at_an_allowed_version() -> None:
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LOCK)}
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["optimizers"], *extras["test"], *extras["check"]]
    for wanted in map(Requirement, lines):
        if wanted.name == PROJECT["name"]:
            continue  # its own extras
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin, f"requirements.lock lacks {wanted.name}: make lock"
        assert pin in wanted.specifier, f"requirements.lock has {wanted.name} {pin}, pyproject.toml {wanted}: make lock"


def test_the_lock_names_versions_of_a_registry_only() -> None:
    """No path, URL or local build (`torch==2.13.0+cpu`), which only the machine that wrote it could install."""
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []


def test_the_wheel_holds_the_language_model_the_types_and_every_data_file() -> None:
    wheel = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    package = {str(file.relative_to(ROOT)) for file in tracked_files() if file.is_relative_to(ROOT / "lmsae")}
    assert package <= wheel
    model = "lmsae/lm/stdlib-4m"
    wanted = {"lmsae/py.typed", f"{model}/model.safetensors", f"{model}/config.json", f"{model}/tokenizer.json"}
    assert wanted <= wheel


def test_the_language_model_is_small_enough_to_ship() -> None:
    size = (ROOT / "lmsae/lm/stdlib-4m/model.safetensors").stat().st_size
    assert size <= 10e6


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lmsae.__version__
    assert {"cff-version", "title", "authors", "message"} <= citation.keys()


def test_no_tracked_file_names_a_path_of_somebodys_machine() -> None:
    path = re.compile(rb"(?<![\w.])/(home|Users|root|work)/[\w.]")
    lines = [
        f"{file.relative_to(ROOT)}:{number}: {line.decode(errors='replace')}"
        for file in tracked_files()
        for number, line in enumerate(file.read_bytes().splitlines(), 1)
        if path.search(line)
    ]
    assert lines == []


def test_a_modules_name_occurs_once_but_for_the_configs_of_rooms() -> None:
    names = Counter(file.stem for file in (ROOT / "lmsae").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} == {"__init__", "config"}
