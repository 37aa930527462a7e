"""The documentation is true: its snippets run, its commands exist, its configs can be planned, its diffs apply."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lmsae.cli import parser
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.interop import saelens
from lmsae.lm.families import FAMILIES
from lmsae.lm.features import Features
from lmsae.losses import LOSSES
from lmsae.planning.catalog import CATALOG
from lmsae.planning.plan import plan_of
from lmsae.planning.sheet import columns
from lmsae.sparsity.config import ACT_FNS
from lmsae.stages import STAGES
from lmsae.store.layout import Layout
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter
from tests.architectures import parts
from tests.miniature import CONFIG, ROWS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=NAMES)
# Pages whose commands other tests look at, or nobody: here only their links are followed.
LINKING = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("config/**/*.md")),
    *sorted(ROOT.glob("benchmarks/**/*.md")),
]
EVERY_LINKING_PAGE = pytest.mark.parametrize("page", LINKING, ids=[str(page.relative_to(ROOT)) for page in LINKING])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A link or image of Markdown, and a path of the repository in backticks; `<row>` and `*` stand for what differs.
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
PATH = re.compile(r"`((?:lmsae|tests|docs|config|workflow|recipes)/[\w./-]+)`")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages, in their order."""
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def pages_with(*languages: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, *languages)]
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


def table_after(heading: str, page: Path) -> Iterator[list[str]]:
    """The cells of each line of the first table behind a heading, without the table's own."""
    behind = page.read_text().split(f"\n{heading}\n", 1)[1].splitlines()
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), behind)
    for line in list(itertools.takewhile(lambda line: line.startswith("|"), lines))[2:]:
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def write_experiment(path: Path) -> None:
    """Write one row of the miniature as the TOML file of one experiment."""
    cells = {name.removeprefix("sae."): value for name, value in ROWS[0].items() if name.startswith("sae.")}
    sections = CONFIG | {"sae": {**CONFIG["sae"], **cells, "k": int(cells["k"])}}
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n")


@pages_with("python")
def test_the_python_snippets_of_a_page_run_one_after_the_other(page: Path, made: Path) -> None:
    if page.name == "notebook.md":
        return  # it trains on the built-in model: tests/test_notebook.py runs it
    write_experiment(made / "config" / "experiment.toml")
    names: dict[str, Any] = {}
    for number, text in enumerate(blocks(page, "python"), 1):
        exec(compile(text, f"{page.name}, python block {number}", "exec"), names)
    if page.name == "artifacts.md":
        assert names["context"].shape == tuple(names["x"].shape[1:])
        assert names["codes"].shape[-1] == CONFIG["sae"]["d_sae"]
        assert names["spliced"].isfinite().all()
        assert names["best"]["name"] in {row["name"] for row in ROWS}


def test_bfloat16_activations_are_read_with_plain_zarr_as_the_page_says(tmp_path: Path) -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    with StoreWriter(tmp_path / "activations" / "activations.zarr", Layout(2, 4, 3, "bfloat16")) as writer:
        writer.append(x)
    np.testing.assert_array_equal(context_as_the_page_reads_it(tmp_path), x[0].bfloat16().float().numpy())


def test_int8_activations_are_read_with_plain_zarr_as_the_page_says(tmp_path: Path) -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 100.0]) + 5
    with StoreWriter(tmp_path / "activations" / "activations.zarr", Layout(2, 4, 3, "int8")) as writer:
        writer.append(x)
    context = context_as_the_page_reads_it(tmp_path)
    stored = StoreReader(tmp_path / "activations" / "activations.zarr").read(0, 1)[0].numpy()
    np.testing.assert_allclose(context, stored, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(context, x[0].numpy(), rtol=0, atol=2)


def context_as_the_page_reads_it(row: Path) -> np.ndarray:
    (snippet,) = (text for text in blocks(ROOT / "docs/artifacts.md", "python") if "bfloat16" in text)
    names: dict[str, Any] = {"row": row}
    exec(snippet, names)
    return names["context"]


def commands(page: Path) -> Iterator[str]:
    """Commands of lmsae and make on a page: lines of shell blocks, and code in running text without placeholders."""
    for text in blocks(page, "bash", ""):
        yield from (line for line in text.splitlines() if re.match(r"(lmsae|make) [a-z]", line))
    yield from re.findall(r"`((?:lmsae|make) [a-z][^`<>]*)`", BLOCK.sub("", page.read_text()))


def test_commands_are_found_in_blocks_and_in_running_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Say `lmsae plan`, `lmsae STAGE` or `make test`.\n\n```bash\nlmsae show KEY   # text\nls\n```\n")
    assert list(commands(page)) == ["lmsae show KEY   # text", "lmsae plan", "make test"]


@EVERY_PAGE
def test_every_command_of_a_page_exists_with_its_flags(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(page):
        program, *arguments = shlex.split(command, comments=True)
        if program == "make":
            assert arguments[0] in targets, command
            continue
        if len(arguments) == 1:  # in running text a command may be named without what it needs
            arguments.append("--help")
        try:
            parser().parse_args(arguments)
        except SystemExit as ended:
            if ended.code:
                pytest.fail(f"{command}: {capsys.readouterr().err}")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: this repository's config, a dataset with splits, and a dictionary of another library."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.jsonl").write_text('{"text": "words", "ids": [1, 2]}\n')
    named = {"model_name": "builtin:stdlib-4m", "hook_name": "blocks.2.hook_resid_post"}
    (tmp_path / "peers" / "layer_3").mkdir(parents=True)
    made = Dictionary(parts("topk", width=256, d_sae=1024, k=32, normalize_activations="none")[0])
    saelens.export(made, tmp_path / "peers" / "layer_3", provenance=named, density=None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# No hub in tests: whatever model and text a page names, these stand in for them, and all else is planned as it is.
STAND_INS = ["model.name=builtin:stdlib-4m", "dataset.name=tables"]


def stand_ins(text: str) -> list[str]:
    return STAND_INS + (["model.others=builtin:stdlib-4m"] if "model.others" in text else [])


@pages_with("yaml", "toml", "tsv")
def test_every_config_of_a_page_can_be_planned(page: Path, user: Path) -> None:
    config, sweep = user / "config" / "config.yaml", user / "config" / "sweep.tsv"
    shared = yaml.safe_load(config.read_text())
    for text in blocks(page, "yaml"):
        given = yaml.safe_load(text)
        config.write_text(yaml.safe_dump(shared | {name: shared.get(name, {}) | given[name] for name in given}))
        assert plan_of(config, sweep, STAND_INS, {})[0].rows
    config.write_text(yaml.safe_dump(shared))
    for text in blocks(page, "tsv"):
        sweep.write_text(text)
        lines, rows = len(text.splitlines()) - 1, len(plan_of(config, sweep, stand_ins(text), {})[0].rows)
        assert rows > lines if "{" in text else rows == lines
    for text in blocks(page, "toml"):
        (user / "experiment.toml").write_text(text)
        assert plan_of(user / "experiment.toml", None, STAND_INS, {})[0].rows


@EVERY_LINKING_PAGE
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    named = [page.parent / link for link in LINK.findall(text)] + [ROOT / path for path in PATH.findall(text)]
    assert [str(path) for path in named if not path.exists()] == []


@EVERY_LINKING_PAGE
def test_every_heading_that_a_page_links_to_is_there(page: Path) -> None:
    for link, anchor in ANCHOR.findall(BLOCK.sub("", page.read_text())):
        target = page.parent / link if link else page
        headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", target.read_text()), re.MULTILINE)
        # GitHub's rule: small letters, no punctuation, a hyphen for every space.
        assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, f"{link}#{anchor}"


def test_the_floors_of_the_page_are_those_that_are_enforced() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    enforced = [re.findall(r"\w+", layer) for layer in contract["layers"] if "__main__" not in layer]
    described = [
        re.findall(r"\w+", floor) for floor, _ in table_after("## Rooms and floors", ROOT / "docs/architecture.md")
    ]
    assert described == enforced


def test_the_stages_of_the_page_have_the_inputs_of_the_code() -> None:
    described = {name.strip("`"): inputs for name, inputs, _ in table_after("## Stages", ROOT / "docs/architecture.md")}
    wanted = {name: ", ".join(sorted(stage.inputs)) for name, stage in STAGES.items()}
    assert described == wanted | {"report": "each row's train, eval and page"}


def test_the_payloads_of_the_page_are_the_files_of_the_artifacts(finished: Path) -> None:
    page = (ROOT / "docs/artifacts.md").read_text()
    payloads = page.split("## Payloads", 1)[1].split("## results/", 1)[0]
    sections = dict(zip(*[iter(re.split(r"^### (\w+)$", payloads, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert list(sections) == list(STAGES)
    for manifest in (finished / "artifacts").glob("*/*/manifest.json"):
        described = sections[manifest.parent.parent.name]
        for entry in json.loads(manifest.read_text())["files"]:
            top = entry["path"].split("/")[0]
            assert f"`{top}" in described, entry["path"]


ZOO = ROOT / "docs/architectures.md"


@pytest.mark.parametrize(("page", "heading"), [(ZOO, "## The catalog"), (ROOT / "README.md", "## Architectures")])
def test_the_catalog_of_the_page_is_that_of_the_code(page: Path, heading: str) -> None:
    described = {
        name.strip("`"): (parts.split(", ")[0], paper) for name, parts, paper, *_ in table_after(heading, page)
    }
    parts = {name: (one.geometry, one.act_fn, " ".join(one.losses)) for name, one in CATALOG.items()}
    assert described == {name: (" · ".join(filter(None, parts[name])), one.paper) for name, one in CATALOG.items()}


@pytest.mark.parametrize(
    ("heading", "kinds"), [("## Geometries", GEOMETRIES), ("## Activation functions", ACT_FNS), ("## Losses", LOSSES)]
)
def test_every_part_stands_in_its_table(heading: str, kinds: dict[str, Any]) -> None:
    assert sorted(row[0].strip("`") for row in table_after(heading, ZOO)) == sorted(kinds)


def test_the_table_of_losses_has_the_columns_of_each() -> None:
    for name, _, described, *_ in table_after("## Losses", ZOO):
        wanted = [f"`sae.{field}`" for field in LOSSES[name.strip("`")].model_fields if field != "kind"]
        assert described == "the same" or sorted(re.findall("`[^`]*`", described)) == sorted(wanted), name


def test_the_drawing_of_the_workflow_has_every_input_of_every_stage() -> None:
    (drawing,) = blocks(ROOT / "README.md", "mermaid")
    edges = set()
    for line in drawing.splitlines()[1:]:
        steps = [[name.strip() for name in step.split("&")] for step in line.split("-->")]
        edges |= {edge for before, after in itertools.pairwise(steps) for edge in itertools.product(before, after)}
    taken = {(source, stage.name) for stage in STAGES.values() for source in stage.inputs.values()}
    instead = {(one.name, taker) for one in STAGES.values() for source, taker in taken if source == one.stands_for}
    assert edges == taken | instead


def test_the_page_of_hook_points_has_those_of_every_family() -> None:
    page = ROOT / "docs/hook-points.md"
    kinds = [name.strip("`").removeprefix("blocks.{i}.") for name, *_ in table_after("## Hook points", page)]
    inner = [kind for kind in kinds if FAMILIES["gpt2"].hook_points[kind].module]
    described = {}
    for families, layers, *places in table_after("## Families", page):
        at = dict(zip(inner, places, strict=True))
        described |= {name: (layers, at) for name in re.findall("[a-z0-9_]+", families)}
    for name, family in FAMILIES.items():
        layers, at = described.pop(name)
        assert layers == f"`{family.layers}.{{i}}`"
        for kind, where in family.hook_points.items():
            wanted = f"{where.side} of `{where.module}`"
            assert not where.module or at[kind] == wanted or (at[kind] == "none" and kind in family.missing({}))
        assert list(family.hook_points) == kinds
    assert not described


@EVERY_PAGE
def test_every_column_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:sae|train|init|eval|activations|tokenize|dataset|model)\.[a-z]\w*)`", page.read_text())
    files = {"activations.zarr", "tokens.zarr"}
    assert sorted({*named} - {*columns()} - files) == []


def test_the_numbers_of_known_features_are_all_described() -> None:
    rows = list(table_after("## The model", ROOT / "docs/recovery.md"))
    names = [name.strip("`") for row in rows for name in row[0].split(", ")]
    defaults = [float(value) for row in rows for value in row[1].split(", ")]
    wanted = {name: field.default for name, field in Features.model_fields.items()}
    assert dict(zip(names, defaults, strict=True)) == wanted


@pytest.mark.slow
def test_an_architecture_added_as_the_page_says_passes_its_tests(tmp_path: Path) -> None:
    for name in ("lmsae", "tests", "docs"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for diff in blocks(ROOT / "docs/adding-an-architecture.md", "diff"):
        run(["git", "apply", "-p1", "-"], tmp_path, diff)
    tests = [
        "test_golden.py",
        "test_lattice.py",
        "metrics/test_recovery.py",
        "planning/test_catalog.py",
        "sparsity",
        "losses",
        "interop",
        "dictionary",
    ]
    chosen = ["-k", "(ksparse or linear_topk or test_every) and not other_seeds", *(f"tests/{name}" for name in tests)]
    said = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen], tmp_path)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 100


def run(command: list[str], folder: Path, text: str | None = None, package: Path | None = None) -> str:
    """Run a command in a folder, with lmsae from there or from the folder `package`; what it said."""
    path = str(package or folder)
    environment = {**os.environ, "PYTHONPATH": path, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
