"""The sheet: config.yaml and sweep.tsv, or one experiment file, read into rows. Every fault knows its file, row and
column.

A value's name is dotted everywhere: `train.lr` is a column of the sheet, and `lr` under `train:` in config.yaml.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lmsae.config import Frozen, read_cells, takes_words
from lmsae.errors import ConfigError, Fault, describe_problem, describe_wanted, suggest
from lmsae.planning.catalog import piece_fields
from lmsae.planning.cells import Cell, Row
from lmsae.planning.config_file import load
from lmsae.planning.dictionaries import Refuse, SaeSection
from lmsae.planning.expanding import expand
from lmsae.planning.rules import MOST_ROWS
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES

SAE = "sae"
SECTIONS: dict[str, type[Frozen]] = {SAE: SaeSection} | {
    name: section for stage in STAGES.values() for name, section in stage.sections.items()
}
"""The sections of columns: that of the dictionary, and those of the stages."""
ROW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
FLAGS = "--set"
Found = TypeVar("Found")
EXPERIMENT = "experiment"


def columns() -> set[str]:
    """Every dotted name that a sheet may have as a column."""
    own = {f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields}
    return own | {f"sae.{name}" for name in piece_fields()}


def columns_of_words() -> set[str]:
    """The columns whose values are lists themselves, of words or numbers."""
    models = [(section, model) for section, model in SECTIONS.items()]
    models += [(SAE, owner) for owners in piece_fields().values() for owner in owners]
    return {
        f"{section}.{name}"
        for section, model in models
        for name, info in model.model_fields.items()
        if takes_words(info.annotation)
    }


def read(
    config: Path | Mapping[str, Any],
    sheet: Path | None,
    overrides: Iterable[str],
    faults: list[Fault],
    *,
    name: str | None = None,
) -> list[Row]:
    """The rows of a sweep. Faults are added to `faults`, so that the plan can name all others too.

    `config` is a YAML, TOML or JSON file, or what such a file holds; without a `sheet` it is one experiment, called
    `name`, its own or its file's. `overrides` are `section.field=value` texts that win over both. Raises
    ConfigError where a file cannot be read at all.
    """
    file = str(config) if isinstance(config, Path) else EXPERIMENT
    nested = dict(load(config) if isinstance(config, Path) else config)
    nested.pop("runtime", None)  # read_runtime's
    own_name = nested.pop("name", None) or (config.stem if isinstance(config, Path) else EXPERIMENT)
    shared = _flatten(nested, file, faults)
    if sheet is None:
        written = [Row(str(name or own_name), file, shared)]
    else:
        written = [Row(row.name, row.file, {**shared, **row.cells}) for row in _read_sheet(sheet, faults)]
    forced = _overrides(overrides, faults)
    return _expand([replace(row, cells={**row.cells, **forced}) for row in written], sheet is not None, faults)


def require_one(rows: Sequence[Found], faults: Iterable[Fault], why: str) -> Found:
    """The only row of what takes one. Raises ConfigError with the `faults`, and for several by lists of a flag."""
    if len(rows) == 1:
        return rows[0]
    raise ConfigError([*faults] or [Fault(FLAGS, None, None, f"its lists make {len(rows)} rows, but {why}")])


def read_runtime(config: Path | Mapping[str, Any], flags: Mapping[str, Any], faults: list[Fault]) -> Runtime:
    """The `runtime:` section of a config file (the defaults if there is no file), with command-line flags over it.

    Faults are added to `faults`, and the defaults stand in for what is wrong.
    """
    file = str(config) if isinstance(config, Path) else EXPERIMENT
    nested = config if not isinstance(config, Path) else load(config) if config.exists() else {}
    runtime = _runtime(nested.get("runtime"), file, faults)
    runtime = _runtime({**runtime.model_dump(exclude_unset=True), **flags}, "command line", faults)
    faults += (Fault(file, None, "runtime.also_look_in", fault) for fault in faults_of_lenders(runtime.also_look_in))
    return runtime


def read_section(row: Row, name: str, values: Mapping[str, Any], refuse: Refuse) -> Frozen | None:
    """The validated section of a row, or None after refusing what is wrong with it."""
    model = SECTIONS[name]
    try:
        return read_cells(model, values)
    except ValidationError as error:
        for problem in error.errors():
            column = f"{name}.{problem['loc'][0]}" if problem["loc"] else None
            if problem["type"] == "missing":
                description = model.model_fields[str(problem["loc"][0])].description
                refuse(column, f"is missing, and has no default ({description})")
            else:
                refuse(column, describe_problem(problem) if column else f"{name}: {describe_wanted(problem)}")
        return None


def faults_of_lenders(folders: Iterable[Path]) -> Iterator[str]:
    """The faults of the folders that lend artifacts. One that is gone is a fault, not an empty one: all that it lent
    would be computed again."""
    for folder in folders:
        if not folder.is_dir():
            yield (
                f"there is no folder {folder} (looked for {folder.absolute()}); mount it, mend the spelling, or take "
                "it out of the list: what it lent is then made here"
            )
        elif (folder / "artifacts").is_dir():
            yield f"{folder} is a project; name its folder of artifacts, {folder / 'artifacts'}"


_NAME_RULE = "a name is letters, digits and . _ = + -, and begins with a letter or digit"


def _flatten(nested: Mapping[str, Any], file: str, faults: list[Fault]) -> dict[str, Cell]:
    known = columns()
    cells: dict[str, Cell] = {}
    for section, fields in nested.items():
        if section not in SECTIONS:
            allowed = [*SECTIONS, "runtime"]
            message = f"there is no such section; there are {', '.join(allowed)}{suggest(str(section), allowed)}"
            faults.append(Fault(file, None, str(section), message))
        elif fields is not None and not isinstance(fields, dict):
            faults.append(Fault(file, None, section, f"found {fields!r}; wanted fields, such as {section}.name: ..."))
        else:
            for name, value in (fields or {}).items():
                column = f"{section}.{name}"
                if column not in known:
                    faults.append(Fault(file, None, column, f"there is no such field{suggest(column, known)}"))
                else:
                    cells[column] = Cell(value, file, None)
    return cells


def _read_sheet(path: Path, faults: list[Fault]) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [_trim(line) for line in csv.reader(file, delimiter="\t")]
    except FileNotFoundError:
        raise ConfigError([Fault(str(path), None, None, f"there is no such file (looked in {Path.cwd()})")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(path), None, None, f"is not UTF-8 text; save it as such ({error})")]) from None
    except csv.Error as error:
        raise ConfigError([Fault(str(path), None, None, f"cannot be read: {error}")]) from None
    lines = [line for line in lines if line and not line[0].startswith("#")]
    if len(lines) < 2:
        raise ConfigError([Fault(str(path), None, None, "has no rows; the first line names columns, each other a row")])
    header, *body = lines
    _require_tabs(path, header)
    _check_header(path, header, faults)
    rows, known = [], columns()
    for number, line in enumerate(body, start=1):
        cells = dict(zip(header, line, strict=False))
        name = cells.pop("name", "")
        if len(line) > len(header):
            faults.append(Fault(str(path), name or str(number), None, f"has {len(line)} cells, not {len(header)}"))
        given = {
            column: Cell(_cell(value), str(path), name or str(number))
            for column, value in cells.items()
            if column in known and value != ""
        }
        rows.append(Row(name, str(path), given))
    return rows


def _expand(written: Sequence[Row], of_sheet: bool, faults: list[Fault]) -> list[Row]:
    """The rows that are meant by those that are written, each with a name of its own."""
    words, seen, rows, by_rules = columns_of_words(), dict[str, int](), list[Row](), 0
    for number, row in enumerate(written, start=1):
        place = str(number) if of_sheet else None
        if not row.name:
            faults.append(Fault(row.file, place, "name", f"found {row.name!r}; {_NAME_RULE}"))
        made = expand(row if row.name else replace(row, name=str(number)), words, faults, of_sheet=of_sheet)
        by_rules += sum(one.rule is not None for one in made)
        if by_rules > MOST_ROWS:
            message = f"is the one beyond {MOST_ROWS:,} rows that rules make in this sheet; make it two sheets"
            faults.append(row.fault(None, message))
            break
        for one in made:
            if not ROW_NAME.fullmatch(one.name):
                faults.append(Fault(one.file, place, "name", f"found {one.name!r}; {_NAME_RULE}"))
            elif one.name in seen:
                message = f"{one.name!r} is the name of row {seen[one.name]} too"
                if seen[one.name] == number:
                    message = f"it makes two rows called {one.name!r}; name every list in it, such as {{sae.k}}"
                faults.append(Fault(one.file, place, "name", message))
            seen.setdefault(one.name, number)
        rows += made
    return rows


def _trim(line: list[str]) -> list[str]:
    """A line's cells without the spaces around them, and without the empty cells that spreadsheets put at its end."""
    cells = [cell.strip() for cell in line]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _require_tabs(path: Path, header: Sequence[str]) -> None:
    """Raise ConfigError where the columns of a header are separated by something else than tabs."""
    separators = {",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}
    for separator, named in separators.items():
        if len(header) == 1 and len(header[0].split(separator)) > 1:
            message = (
                f"its first line has {named} between the columns; wanted tabs. Save the sheet as tab-separated text"
            )
            raise ConfigError([Fault(str(path), None, None, message)])


def _check_header(path: Path, header: list[str], faults: list[Fault]) -> None:
    known = {"name", *columns()}
    for column in header:
        if column not in known:
            message = _of_runtime(column) or (
                f"there is no such column{suggest(column, known) or '.'} config/README.md lists them all "
                "(`lmsae docs` writes it)"
            )
            faults.append(Fault(str(path), None, column, message))
        elif header.count(column) > 1:
            faults.append(Fault(str(path), None, column, "stands twice in the header"))
    if "name" not in header:
        faults.append(Fault(str(path), None, "name", "is missing from the header: every row needs a name"))


def _of_runtime(column: str) -> str | None:
    """The message for a column that is a field of `runtime`, which no row has; None if it is none."""
    section, _, name = column.partition(".")
    if section != "runtime" or name not in Runtime.model_fields:
        return None
    return f"says how to work, which no row does: write {name} under runtime in the config file"


def _cell(text: str) -> Any:
    return None if text == "null" else text


def _overrides(texts: Iterable[str], faults: list[Fault]) -> dict[str, Cell]:
    known = columns()
    cells = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals:
            faults.append(Fault(FLAGS, None, text, "wanted section.field=value"))
        elif column not in known:
            message = _of_runtime(column) or f"there is no such field{suggest(column, known)}"
            faults.append(Fault(FLAGS, None, column, message))
        else:
            cells[column] = Cell(_cell(value), FLAGS, None)
    return cells


def _runtime(values: Any, file: str, faults: list[Fault]) -> Runtime:
    try:
        return read_cells(Runtime, values) if isinstance(values, dict) else Runtime.model_validate(values or {})
    except ValidationError as error:
        for problem in error.errors():
            column = ".".join(str(part) for part in ("runtime", *problem["loc"]))
            known = [f"runtime.{name}" for name in Runtime.model_fields]
            if problem["type"] == "extra_forbidden":
                message = f"found {problem['input']!r}; there is no such field{suggest(column, known)}"
            else:
                message = describe_problem(problem)
            faults.append(Fault(file, None, column, message))
        return Runtime()
