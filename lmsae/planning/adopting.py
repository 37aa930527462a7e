"""A row adopts what its finished dictionary fixes: cells that are empty are filled, and contradictions are refused."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmsae.config import parse_cell
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import suggest
from lmsae.geometry.config import GEOMETRIES
from lmsae.interop.finished import FILES, Finished
from lmsae.interop.foreign_names import mean_the_same
from lmsae.planning.catalog import CATALOG, piece_fields
from lmsae.planning.cells import Cell, Row
from lmsae.planning.dictionaries import HOOK_POINT, HOOK_POINT_IN, HOOK_POINT_OUT, Refuse, SaeSection
from lmsae.stages.models import ModelSection

SAE_FROM, INIT_FROM = "sae.from", "init.from"
MAY_DIFFER = frozenset({"sae.k", "sae.jumprelu_bandwidth", "sae.jumprelu_init_threshold"})
"""The columns in which a dictionary may differ from the one it starts from: how many latents are active, how thresholds
learn."""
_HOOK_POINTS = tuple(f"sae.{name}" for name in (HOOK_POINT, HOOK_POINT_IN, HOOK_POINT_OUT))


def named_sources(row: Row) -> dict[str, str]:
    """The finished dictionaries that a row names, by the column that does. A value that is no text is not one."""
    cells = {column: row.cells.get(column) for column in (SAE_FROM, INIT_FROM)}
    return {column: cell.value for column, cell in cells.items() if cell is not None and isinstance(cell.value, str)}


def adopt_finished(row: Row, finished: Finished, refuse: Refuse) -> Row:
    """The row of a dictionary that is finished: what it is comes from the dictionary alone.

    Values that all rows share mean nothing to it, but for the model and the hook points. Refused are its own values
    that say otherwise, and those without an effect.
    """
    fixed, own = columns_of(finished.content.dictionary), _meant(row, SAE_FROM)
    for column, cell in own.items():
        if column.startswith(("train.", "init.")) or (column.startswith("sae.") and _is_idle(column, fixed)):
            if cell.row is not None:
                refuse(
                    column, f"changes nothing in this row: {finished.name} is finished (sae.from). Leave the cell empty"
                )
        else:
            _compare(column, cell.value, fixed, finished, refuse)
    kept = {
        column: cell
        for column, cell in row.cells.items()
        if not column.startswith(("sae.", "train.", "init.")) or column in (SAE_FROM, *_HOOK_POINTS)
    }
    filled = _origin_cells(row, finished, refuse) | {
        column: value for column, value in fixed.items() if column.removeprefix("sae.") in SaeSection.model_fields
    }
    return _with(row, kept, filled, finished)


def adopt_start(row: Row, finished: Finished, refuse: Refuse) -> Row:
    """The row of a dictionary that starts from a finished one: what its own cells leave open is as it is there.

    Of what all rows share, losses and their coefficients are meant for it too, and what the dictionary is made of if
    that is the same.
    """
    fixed, own = columns_of(finished.content.dictionary), _meant(row, INIT_FROM)
    for column in ("sae.architecture", *fixed):
        if column in own and column not in (*MAY_DIFFER, "sae.d_sae"):
            _compare(column, own[column].value, fixed, finished, refuse)
    dropped = {*fixed, "sae.expansion_factor"} - own.keys()
    architecture = row.cells.get("sae.architecture")
    if "sae.architecture" not in own and architecture is not None and not _is_of(architecture.value, fixed):
        dropped.add("sae.architecture")
    if "sae.expansion_factor" in own:
        fixed.pop("sae.d_sae")
    kept = {column: cell for column, cell in row.cells.items() if column not in dropped}
    return _with(row, kept, _origin_cells(row, finished, None) | fixed, finished)


def columns_of(dictionary: DictionaryConfig) -> dict[str, Any]:
    """The columns `sae.*` that a dictionary fixes, with its values."""
    geometry, act_fn = dictionary.geometry, dictionary.act_fn
    values: dict[str, Any] = {
        "geometry": geometry.kind,
        "act_fn": act_fn.kind,
        "d_sae": dictionary.d_sae,
        "normalize_activations": dictionary.normalize_activations,
        "sparsity_include_decoder_norm": dictionary.sparsity_include_decoder_norm,
        **geometry.model_dump(exclude={"kind"}),
        **act_fn.model_dump(exclude={"kind"}),
    }
    return {f"sae.{name}": value for name, value in values.items() if value is not None}


def _meant(row: Row, source: str) -> dict[str, Cell]:
    """The cells with a value that are meant for the dictionary that a column names: the row's own or, if that column is
    shared by all rows too, all."""
    is_shared = row.cells[source].row is None
    return {
        column: cell
        for column, cell in row.cells.items()
        if cell.value is not None and (cell.row is not None or is_shared) and column != source
    }


def _is_idle(column: str, fixed: Mapping[str, Any]) -> bool:
    return column not in (*fixed, *_HOOK_POINTS, "sae.architecture", "sae.expansion_factor")


def _compare(column: str, value: Any, fixed: Mapping[str, Any], finished: Finished, refuse: Refuse) -> None:
    """Refuse a value of the row that contradicts the dictionary."""
    told = f"{finished.name} ({FILES[finished.content.format][0]})"
    if column == "sae.architecture":
        entry = CATALOG.get(str(value))
        if entry is None:
            hint = suggest(str(value), CATALOG)
            refuse(column, f"there is no architecture {value!r}; there are {', '.join(CATALOG)}{hint}")
        elif not _is_of(value, fixed):
            refuse(
                column,
                f"{value} is {entry.geometry} with {entry.act_fn}, but {told} is {fixed['sae.geometry']} with "
                f"{fixed['sae.act_fn']}. Leave the cell empty",
            )
    elif column == "sae.expansion_factor":
        widths = finished.content.dictionary.widths.reads
        if _number(value) is None or round((_number(value) or 0) * widths[0]) != fixed["sae.d_sae"]:
            message = f"found {value!r}, but {told} has {fixed['sae.d_sae']:,} latents at width {widths[0]:,}"
            refuse(column, f"{message}. Leave the cell empty")
    elif column in fixed and not _says(column, value, fixed[column]):
        refuse(column, f"found {value!r}, but {told} has {_show(fixed[column])}. Leave the cell empty, or write that")


def _is_of(architecture: Any, fixed: Mapping[str, Any]) -> bool:
    """True if an architecture has the geometry and activation function that are fixed."""
    entry = CATALOG.get(str(architecture))
    return entry is not None and (entry.geometry, entry.act_fn) == (fixed["sae.geometry"], fixed["sae.act_fn"])


def _says(column: str, value: Any, fixed: Any) -> bool:
    """True if a cell says what is fixed, as text or as a value."""
    name = column.removeprefix("sae.")
    model = SaeSection if name in SaeSection.model_fields else piece_fields()[name][0]
    try:
        parsed = parse_cell(model, name, value)
    except ValueError:
        return False
    if isinstance(fixed, bool):
        return str(parsed).lower() == str(fixed).lower()
    if isinstance(fixed, int | float):
        return _number(parsed) == fixed
    return tuple(parsed) == fixed if isinstance(parsed, list | tuple) else str(parsed) == str(fixed)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def _origin_cells(row: Row, finished: Finished, refuse: Refuse | None) -> dict[str, Any]:
    """The model and hook points that the dictionary names, by column; with `refuse`, a row that names others is
    refused."""
    told = dict(_origin_columns(finished))
    for column, value in told.items() if refuse else ():
        cell = row.cells.get(column)
        if cell is not None and cell.value is not None and not _agrees(column, cell.value, value):
            assert refuse is not None
            refuse(
                column,
                f"found {_show(cell.value)!r}, but {finished.name} was trained on {_show(value)}, as "
                f"{FILES[finished.content.format][0]} says. Leave the cell empty, or name that",
            )
    return told


def _origin_columns(finished: Finished) -> Iterator[tuple[str, Any]]:
    origin, geometry = finished.origin, GEOMETRIES[finished.content.dictionary.geometry.kind]
    if origin.models:
        yield "model.name", origin.models[0]
    if origin.models[1:]:
        yield "model.others", origin.models[1:]
    if geometry.autoencodes:
        if origin.reads:
            yield f"sae.{HOOK_POINT}", origin.reads
    elif origin.reads and origin.writes:
        yield f"sae.{HOOK_POINT_IN}", origin.reads
        yield f"sae.{HOOK_POINT_OUT}", origin.writes


def _agrees(column: str, value: Any, told: Any) -> bool:
    if column == "model.name":
        return mean_the_same(str(value), told) or (Path(str(value)).is_dir() and not Path(told).is_dir())
    model = ModelSection if column.startswith("model.") else SaeSection
    parsed = parse_cell(model, column.partition(".")[2], value)
    return (parsed,) == told if isinstance(parsed, str) else tuple(parsed or ()) == told  # pyright: ignore


def _with(row: Row, cells: Mapping[str, Cell], filled: Mapping[str, Any], finished: Finished) -> Row:
    """The row with these cells; where one has no value, with what is filled in."""
    known = {column: Cell(value, finished.name, None) for column, value in filled.items()}
    given = {column: cell for column, cell in cells.items() if cell.value is not None}
    nothing = {column: cell for column, cell in cells.items() if cell.value is None}
    return replace(row, cells={**nothing, **known, **given})
