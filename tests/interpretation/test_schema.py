"""The schemas of the stage `features`: what a file says of itself, and what docs/features.md says of it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmsae.interpretation.schema import CONTEXTS_SCHEMA, LATENTS_SCHEMA, SCHEMA_VERSION, Info, quantile_kind
from tests.test_docs import table_after

DOCS = Path(__file__).resolve().parents[2] / "docs/features.md"
SCHEMAS = pytest.mark.parametrize(
    ("schema", "heading"), [(LATENTS_SCHEMA, "## latents.parquet"), (CONTEXTS_SCHEMA, "## contexts.parquet")]
)


def type_of(field: pa.Field) -> str:
    """The type of a column as the page has it."""
    return str(field.type).replace(" not null", "").replace("item: ", "").replace("element: ", "")


@SCHEMAS
def test_the_page_describes_every_column_in_the_words_of_the_file(schema: pa.Schema, heading: str) -> None:
    written = [tuple(cell.replace("`", "") for cell in line) for line in table_after(heading, DOCS)]
    described = [(f.name, type_of(f), f.metadata[b"description"].decode().replace("`", "")) for f in schema]
    assert written == described


def test_the_page_describes_every_field_of_the_info() -> None:
    written = {name.strip("`"): meaning for name, meaning in table_after("## features.json", DOCS)}
    assert written == {name: field.description for name, field in Info.model_fields.items()}


@SCHEMAS
def test_a_file_says_its_version_and_what_its_columns_mean(schema: pa.Schema, heading: str, tmp_path: Path) -> None:
    del heading
    pq.write_table(schema.empty_table(), tmp_path / "table.parquet")
    read = pq.read_schema(tmp_path / "table.parquet")
    assert read.equals(schema)
    assert read.metadata[b"lmsae.features.schema"] == str(SCHEMA_VERSION).encode()
    assert all(read.field(name).metadata[b"description"] for name in read.names)


def test_the_info_accepts_fields_of_a_later_lmsae_and_no_other_version() -> None:
    written = json.loads(INFO.model_dump_json()) | {"later": 1}
    assert Info.model_validate(written) == INFO
    with pytest.raises(ValueError, match="schema_version"):
        Info.model_validate(written | {"schema_version": 2})


def test_quantile_bins_are_counted_from_the_weakest() -> None:
    assert [quantile_kind(number) for number in range(3)] == ["q1", "q2", "q3"]


INFO = Info(
    schema_version=1,
    latents=8,
    d_sae=8,
    geometry="sae",
    act_fn="topk",
    signed=False,
    models=("model",),
    reads=(),
    writes=(),
    dataset="text",
    split="train",
    contexts=2,
    context_size=4,
    tokens=6,
    histogram_bins=4,
    quantiles=2,
    position_bins=(0, 2, 4),
    position_tokens=(3, 3),
    logits="none",
    companions="all tokens",
)
