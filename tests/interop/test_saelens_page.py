"""The page for those who come from SAELens: its tables name what the installed library and lmsae have."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import sae_lens

import lmsae
from lmsae.planning.catalog import CATALOG
from lmsae.planning.sheet import columns
from lmsae.runtime.runtime import Runtime

PAGE = Path(__file__).parents[2] / "docs/from-saelens.md"
CODE = "code for SAELens"
"""The heading of the table that has lines of code in the place of names."""
CLASSES = [vars(sae_lens)[name] for name in dir(sae_lens) if re.fullmatch(r"\w+TrainingSAEConfig", name)]


def tables() -> Iterator[tuple[str, list[str], list[str]]]:
    """Every line of every table: the heading of its first column, and the names in the first and the second one."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE):
        head, _, *lines = [line.strip("|").split("|") for line in table.splitlines()]
        for first, second, *_ in lines:
            yield head[0].strip(" `"), re.findall("`([^`]*)`", first), re.findall("`([^`]*)`", second)


def test_every_name_on_the_left_is_one_of_saelens() -> None:
    runner = {field.name for field in dataclasses.fields(sae_lens.LanguageModelSAERunnerConfig)}
    fields = {field.name for one in CLASSES for field in dataclasses.fields(one)}
    known = {"LanguageModelSAERunnerConfig": runner, "field": fields, "SAELens": {one.__name__ for one in CLASSES}}
    known["finished dictionary"] = {
        f"SAE.{name}({arguments})"
        for name, arguments in (("load_from_disk", "folder"), ("from_pretrained", "release, sae_id"))
        if callable(getattr(sae_lens.SAE, name))
    }
    assert {head for head, *_ in tables()} == {*known, CODE}
    assert [name for head, names, _ in tables() if head != CODE for name in names if name not in known[head]] == []


def test_every_training_class_of_saelens_is_on_the_page() -> None:
    named = {name for head, names, _ in tables() for name in names if head == "SAELens"}
    assert named == {one.__name__ for one in CLASSES}


def test_every_name_on_the_right_is_a_column_of_ours() -> None:
    ours = columns() | {f"runtime.{name}" for name in Runtime.model_fields} | {*CATALOG}
    right = [name for head, _, names in tables() if head != CODE for name in names if not name.startswith("lmsae.")]
    assert [name for name in right if name.partition(":")[0] not in ours] == []


def test_every_function_of_ours_in_code_is_there() -> None:
    code = " ".join(name for _, _, names in tables() for name in names)
    called = set(re.findall(r"lmsae\.(\w+)\(", code))
    assert called
    assert called <= {*lmsae.__all__}
