"""The documentation of every column is written from the code, is complete, and is the one in the repository."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lmsae.planning.catalog import CATALOG, piece_fields
from lmsae.planning.columns import readme, schema
from lmsae.planning.sheet import SECTIONS, columns
from lmsae.runtime.runtime import Runtime, Wandb
from tests.miniature import Said

CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_the_repositorys_documentation_of_columns_is_up_to_date(lmsae: Callable[..., Said]) -> None:
    said = lmsae("docs", "--check", "--config", str(CONFIG / "config.yaml"))
    assert (said.code, said.out) == (0, "")


def test_documentation_that_is_out_of_date_is_found_and_written_again(
    tmp_path: Path, lmsae: Callable[..., Said]
) -> None:
    config = str(tmp_path / "config.yaml")
    shutil.copy(CONFIG / "schema.json", tmp_path)
    (tmp_path / "README.md").write_text("old")
    said = lmsae("docs", "--check", "--config", config)
    assert (said.code, said.out) == (1, f"{tmp_path / 'README.md'} is out of date; write it again with `lmsae docs`\n")
    assert (tmp_path / "README.md").read_text() == "old"
    assert lmsae("docs", "--config", config).out == f"wrote {tmp_path / 'README.md'}\n"
    assert lmsae("docs", "--check", "--config", config).code == 0


@pytest.mark.parametrize(
    ("name", "description"),
    [
        *((f"{section}.{name}", info.description) for section, model in SECTIONS.items()
          for name, info in model.model_fields.items()),
        *((f"sae.{name}", owner.model_fields[name].description) for name, owners in piece_fields().items()
          for owner in owners),
        *((f"runtime.{name}", info.description) for name, info in Runtime.model_fields.items()),
        *((f"runtime.wandb.{name}", info.description) for name, info in Wandb.model_fields.items()),
    ],
)  # fmt: skip
def test_every_column_has_a_description(name: str, description: str | None) -> None:
    assert description, name
    assert description.endswith(".")


def test_parts_that_share_a_column_describe_it_alike() -> None:
    for name, owners in piece_fields().items():
        assert len({owner.model_fields[name].description for owner in owners}) == 1, name


def test_the_page_has_a_line_for_every_column_and_every_architecture() -> None:
    named = {line.split("`")[1] for line in readme().splitlines() if line.startswith("| `")}
    assert named - {"sae.architecture"} >= {*columns(), *CATALOG} - {"sae.architecture"}
    assert {name for name in named if name.startswith("runtime.")} == {
        *(f"runtime.{name}" for name in Runtime.model_fields if name != "wandb"),
        *(f"runtime.wandb.{name}" for name in Wandb.model_fields),
    }


def test_the_schema_knows_exactly_the_columns() -> None:
    properties = schema()["properties"]
    assert {f"{section}.{name}" for section in SECTIONS for name in properties[section]["properties"]} == columns()
    assert all(properties[section]["additionalProperties"] is False for section in [*SECTIONS, "runtime"])
    references = {line.split("#/$defs/")[1].strip('",') for line in json.dumps(schema(), indent=1).splitlines()
                  if "#/$defs/" in line}  # fmt: skip
    assert references <= set(schema()["$defs"])


def test_the_repositorys_config_names_only_what_the_schema_knows() -> None:
    properties = schema()["properties"]
    for section, fields in yaml.safe_load((CONFIG / "config.yaml").read_text()).items():
        assert set(fields) <= set(properties[section]["properties"])


def test_types_are_written_for_people() -> None:
    """And alike in every process: no class of the typing module, no function, no address."""
    types = {line.split("|")[2].strip() for line in readme().splitlines() if line.startswith("| `")}
    assert not [text for text in types if any(word in text for word in ("Annotated", "function", "0x", "tuple"))]
