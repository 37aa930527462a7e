"""Explanations as they are stored beside results: a table by latent, and where it comes from."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmsae.errors import FolderError
from lmsae.interpretation.explaining.config import SCORERS, Settings
from lmsae.interpretation.explaining.questions import VERSION
from lmsae.interpretation.explaining.scoring_answers import Explained
from lmsae.runtime.drafts import draft_of

TABLE, ABOUT = "explanations.parquet", "explanations.json"
FOLDER = "explanations"
"""The folder of all explanations among results; each has one of its own in it, called by the key of the features."""


SAME = ("explanation", "model", "questions", "seed")
"""The columns that must agree for a score to be one of the same explanation, on the same pieces."""


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


SCHEMA = pa.schema(
    [
        _field("latent", pa.int32(), "number of the latent", nullable=False),
        _field("explanation", pa.string(), "what it is taken to mean; null if no answer could be read"),
        *(
            field
            for scorer in SCORERS
            for field in (
                _field(scorer, pa.float64(), f"balanced accuracy of {scorer}: 0.5 is guessing; null if not measured"),
                _field(f"{scorer}_active", pa.int32(), "pieces with a verdict where the latent is active"),
                _field(f"{scorer}_active_right", pa.int32(), "those of them with the right one"),
                _field(f"{scorer}_silent", pa.int32(), "pieces with a verdict where the latent is silent"),
                _field(f"{scorer}_silent_right", pa.int32(), "those of them with the right one"),
            )
        ),
        _field("malformed", pa.int32(), "answers that could not be read", nullable=False),
        _field("model", pa.string(), "model that explained and judged", nullable=False),
        _field("questions", pa.int32(), "version of the words of the questions", nullable=False),
        _field("seed", pa.int64(), "seed of the pieces", nullable=False),
        _field("answered", pa.string(), "when the last answer came (UTC)", nullable=False),
    ]
)


def folder_of(results: Path, key: str) -> Path:
    """The folder among results with the explanations of the features with a key."""
    return results / FOLDER / key


def read_table(folder: Path) -> pa.Table | None:
    """The table in a folder, None if there is none. Raises FolderError if it is no such table."""
    file = folder / TABLE
    if not file.is_file():
        return None
    try:
        return pq.read_table(file).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
        raise FolderError(f"{file} cannot be read ({error}). Delete it and run `lmsae explain` again.") from None


def with_explanations(table: pa.Table, latents: Iterable[int], explanations: pa.Table) -> pa.Table:
    """A table of latents, these by row, with columns of what they are taken to mean and of the scores of that; null
    where a latent has none."""
    shown = ["explanation", *SCORERS]
    known = {row["latent"]: row for row in explanations.select(["latent", *shown]).to_pylist()}
    rows = [known.get(latent, {}) for latent in latents]
    for name in shown:
        kind = SCHEMA.field(name).type
        column = pa.array([row.get(name) for row in rows], kind)
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(pa.field(name, kind), column)
    return table


def merge(folder: Path, explained: Sequence[Explained], settings: Settings, answered: dict[int, str]) -> pa.Table:
    """Write the table of a folder with these latents, and with those that it had besides; returns it. `answered` says
    when the last answer about a latent came."""
    before = read_table(folder)
    rows = {row["latent"]: row for row in (before.to_pylist() if before is not None else ())}
    for one in (one for one in explained if not one.failure):
        new, old = _row(one, settings, answered), rows.get(one.latent, {})
        # A score that was not asked for this time still holds for the same words.
        rows[one.latent] = {**old, **new} if all(old.get(name) == new[name] for name in SAME) else new
    table = pa.Table.from_pylist([rows[latent] for latent in sorted(rows)], schema=SCHEMA)
    with draft_of(folder / TABLE) as draft:
        pq.write_table(table, draft)
    return table


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write where the explanations come from. The key of the endpoint is no part of it."""
    with draft_of(folder / ABOUT) as draft:
        draft.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")


def _row(one: Explained, settings: Settings, answered: dict[int, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"latent": one.latent, "explanation": one.explanation, "malformed": one.malformed}
    for scorer, score in one.scores.items():
        row[scorer] = score.balanced_accuracy
        row |= {f"{scorer}_active": score.active, f"{scorer}_active_right": score.active_right}
        row |= {f"{scorer}_silent": score.silent, f"{scorer}_silent_right": score.silent_right}
    made_by = {"model": settings.model, "questions": VERSION, "seed": settings.seed}
    return {**row, **made_by, "answered": answered.get(one.latent, "")}
