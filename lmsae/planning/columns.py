"""config/README.md and config/schema.json: written from the field descriptions, which are the only ones there are.

The table of docs/hook-points.md is written from the entries of families (hook_table.py).
"""

import functools
import json
import operator
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lmsae.planning.catalog import CATALOG, PIECES, piece_fields
from lmsae.planning.hook_table import with_table
from lmsae.planning.sheet import SECTIONS
from lmsae.runtime.runtime import Runtime, Wandb

HEAD = """# Configuration

`config.yaml` holds what every row shares, nested by section. `sweep.tsv` has one row per dictionary: its column
`name`, and any field below as a dotted column (`train.lr`). An empty cell takes the value of `config.yaml`, or else the
default; `null` means no value. Lines that begin with `#` are comments. Thousands have no point and no comma: write
`100000` or `100_000`. `lmsae plan` checks all of it before anything runs.

## Rows by rule

A list in braces makes a row for each of its values, and several lists a row for each combination; the last one moves
fastest. `lmsae plan` shows the rows. They are rows like those that are written one by one, with the same keys.

| in a cell | means |
|---|---|
| `{16, 32, 64}` | three values |
| `blocks.{0..3}.hook_resid_post` | layers 0 to 3; `{0..12..4}` is 0, 4, 8, 12 |
| `blocks.0.hook_resid_post blocks.{1, 2}.hook_resid_post` | two crosscoders: a cell of words stays one value |
| `{l1, l1 aux_k}` | a row with one loss, and a row with two |
| `{layer: 0..3}` | a list with a name. Lists of one name move together, so they have one length |
| `{layer}` | the value that the list of this name has in the row |
| `{null, 3}` | no value, and 3 |
| `{{` and `}}` | braces that are meant |

The name of a row may take values too: `{sae.architecture}-k{sae.k}-s{train.seed}`. Any column can stand there, and
any named list. A name without braces gets a word for each list at its end: `topk-layer2-k32-seed0`. Two rows of one
name are refused. A fault of rows that a rule makes is told once, at the rule, with their names.

These two lines are eight SAEs and six transcoders. Seeds of weights and of data move together, so the report groups
them:

```tsv
name	sae.hook_point	sae.hook_point_in	sae.hook_point_out	sae.architecture	sae.k	init.seed	train.seed
sae	blocks.{1, 2}.hook_resid_post			topk	{16, 32}	{s: 0, 1}	{s}
mlp		blocks.{layer: 0..2}.ln2.hook_normalized	blocks.{layer}.hook_mlp_out	transcoder	32	{s: 0, 1}	{s}
```

In a file of `lmsae run` and in Python, a list does the same: `k = [16, 32]`. Where a value is a list itself (`words`
and `numbers` below), write braces in a text, or a list of lists. `config.yaml` beside a sheet has what all rows share,
and no lists; `{layer}` may stand there. A rule makes 10,000 rows at most, and all rules of a sheet no more together.

## Where columns come from

This page is written by `lmsae docs` from the code's own descriptions; `schema.json` beside it gives editors completion
for `config.yaml` and for the files of `lmsae run`.
"""


def write_docs(folder: Path, *, check: bool, say: Callable[[str], None]) -> int:
    """Write both files into `folder`, and beside it the table of docs/hook-points.md, where that is; with `check` only
    compare. Returns 1 if `check` found a difference, else 0."""
    wanted = {folder / "README.md": readme(), folder / "schema.json": json.dumps(schema(), indent=1) + "\n"}
    if (page := folder.parent / "docs" / "hook-points.md").is_file():
        wanted[page] = with_table(page.read_text())
    stale = [path for path, text in wanted.items() if not _holds(path, text)]
    for path in stale:
        if check:
            say(f"{path} is out of date; write it again with `lmsae docs`")
        else:
            path.write_text(wanted[path])
            say(f"wrote {path}")
    return 1 if check and stale else 0


def readme() -> str:
    """The text of config/README.md."""
    lines = [HEAD]
    for section, model in SECTIONS.items():
        lines += [f"## {section}", "", "| column | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(f"{section}.{name}", info) for name, info in model.model_fields.items()]
        if section == "sae":
            lines += [_row(f"sae.{name}", info, users) for name, info, users in _pieces()]
            lines += ["", "### Architectures", ""]
            lines += [
                "| `sae.architecture` | geometry | act_fn | losses | sets | source |",
                "|---|---|---|---|---|---|",
                *_catalog(),
            ]
        lines.append("")
    lines += ["## runtime", "", "In `config.yaml` only (or as flags): how to work. None of it changes an artifact.", ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    lines += [_row(f"runtime.{name}", info) for name, info in Runtime.model_fields.items() if name != "wandb"]
    lines += [_row(f"runtime.wandb.{name}", info) for name, info in Wandb.model_fields.items()]
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """A JSON schema of config.yaml and of one-experiment files."""
    properties: dict[str, Any] = {"name": {"type": "string", "description": "Name of a one-experiment file's row."}}
    definitions: dict[str, Any] = {"Rule": {"anyOf": [{"type": "array"}, {"type": "string", "pattern": "[{].*[}]"}]}}
    for section, model in {**SECTIONS, "runtime": Runtime}.items():
        described = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= described.pop("$defs", {})
        described.pop("required", None)
        if section != "runtime":
            described["properties"] = {name: _or_list(field) for name, field in described["properties"].items()}
        properties[section] = described
    for piece_name, owners in piece_fields().items():
        field = owners[0].model_json_schema()["properties"][piece_name]
        properties["sae"]["properties"][piece_name] = _or_list(field)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lmsae configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }


def _or_list(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may also be a rule: a list of its values, or a text with braces."""
    told = {name: field[name] for name in ("title", "description", "default") if name in field}
    one = {name: value for name, value in field.items() if name not in told}
    options = one["anyOf"] if one.keys() == {"anyOf"} else [one]
    return {**told, "anyOf": [*options, {"$ref": "#/$defs/Rule"}]}


def _pieces() -> Iterator[tuple[str, FieldInfo, list[str]]]:
    for name, owners in piece_fields().items():
        users = [kind for pieces in PIECES.values() for kind, piece in pieces.items() if piece in owners]
        yield name, owners[0].model_fields[name], users


def _catalog() -> Iterator[str]:
    for name, entry in CATALOG.items():
        sets = ", ".join(f"{field} {value}" for field, value in entry.defaults.items())
        losses = " ".join(entry.losses)
        yield f"| `{name}` | {entry.geometry} | {entry.act_fn} | {losses} | {sets} | {entry.paper} |"


def _row(column: str, info: FieldInfo, users: list[str] | None = None) -> str:
    meaning = info.description or ""
    if users:
        meaning += f" For {', '.join(users)}."
    return f"| `{column}` | {_type(info)} | {_default(info)} | {meaning.replace('|', '&#124;')} |"


def _type(info: FieldInfo) -> str:
    annotation = _without_metadata(info.annotation)
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for found, written in _WORDS.items():
        text = text.replace(found, written)
    rules = [(rule, name, symbol) for rule in info.metadata for name, symbol in _LIMITS if hasattr(rule, name)]
    limits = [f"{symbol} {getattr(rule, name)}" for rule, name, symbol in rules]
    return ", ".join([" ".join(text.split()), *limits])


def _without_metadata(annotation: Any) -> Any:
    """A type without what `Annotated` adds: validators, which would be written with their addresses in memory."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _without_metadata(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_without_metadata, typing.get_args(annotation)))
    return annotation


_WORDS = {
    "typing.": "",
    "pathlib.": "",
    " | None": "",
    "tuple[int | float | Literal['log'], ...]": "`log` or numbers",
    "tuple[Union[int, float, Literal['log']], ...]": "`log` or numbers",
    "tuple[Path, ...]": "folders",
    "tuple[str, ...]": "words",
    "tuple[float, ...]": "numbers",
    "tuple[int, ...]": "whole numbers",
    "Literal": "",
    "Union": "",
    "[": " ",
    "]": " ",
    "'": "`",
    "|": "or",
}
"""Replacements, one after the other, that write a type for people."""
_LIMITS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "required" if info.default_factory is None else ""
    if info.default is None or info.default == ():
        return ""
    if isinstance(info.default, tuple):
        return f"`{' '.join(str(item) for item in info.default)}`"
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text
