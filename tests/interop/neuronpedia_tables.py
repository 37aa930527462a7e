"""The columns of Neuronpedia's tables that a bundle may fill, as facts: each with its type, and if it must be given.

From its database as of August 2026. An array's items have one type. A column that is left out takes its default.
"""

import gzip
import json
from pathlib import Path
from typing import Any

TEXT, NUMBER, WHOLE, TRUTH, TIME, TEXTS, NUMBERS, WHOLES = (
    "text",
    "double precision",
    "integer",
    "boolean",
    "timestamp(3)",
    "text[]",
    "double precision[]",
    "integer[]",
)
KINDS: dict[str, Any] = {TEXT: str, NUMBER: (int, float), WHOLE: int, TRUTH: bool, TIME: str}
Columns = dict[str, tuple[str, bool]]


def _columns(required: dict[str, str], others: dict[str, str]) -> Columns:
    return {name: (kind, True) for name, kind in required.items()} | {name: (k, False) for name, k in others.items()}


_OF_LATENT = {"modelId": TEXT, "layer": TEXT, "index": TEXT}
TABLES: dict[str, Columns] = {
    "SourceRelease": _columns(
        {"name": TEXT, "description": TEXT, "creatorName": TEXT, "creatorId": TEXT, "urls": TEXTS},
        {"descriptionShort": TEXT, "creatorNameShort": TEXT, "visibility": TEXT, "createdAt": TIME},
    ),
    "Model": _columns(
        {"id": TEXT, "creatorId": TEXT, "layers": WHOLE, "neuronsPerLayer": WHOLE, "owner": TEXT},
        {"displayName": TEXT, "displayNameShort": TEXT, "dimension": WHOLE, "visibility": TEXT}
        | dict.fromkeys(("createdAt", "updatedAt"), TIME),
    ),
    "SourceSet": _columns(
        {"modelId": TEXT, "name": TEXT, "description": TEXT, "creatorName": TEXT, "creatorId": TEXT, "urls": TEXTS},
        {"releaseName": TEXT, "visibility": TEXT, "createdAt": TIME},
    ),
    "Source": _columns(
        {"id": TEXT, "modelId": TEXT, "setName": TEXT, "creatorId": TEXT},
        {"dataset": TEXT, "num_prompts": WHOLE, "num_tokens_in_prompt": WHOLE, "notes": TEXT, "visibility": TEXT}
        | {"createdAt": TIME},
    ),
    "Neuron": _columns(
        _OF_LATENT,
        {"sourceSetName": TEXT, "creatorId": TEXT, "createdAt": TIME, "maxActApprox": NUMBER, "hasVector": TRUTH}
        | {"frac_nonzero": NUMBER}
        | dict.fromkeys(("topkCosSimIndices", "neuron_alignment_indices"), WHOLES)
        | dict.fromkeys(("topkCosSimValues", "neuron_alignment_values", "neuron_alignment_l1"), NUMBERS)
        | dict.fromkeys(("pos_str", "neg_str"), TEXTS)
        | dict.fromkeys(("pos_values", "neg_values"), NUMBERS)
        | dict.fromkeys(("freq_hist_data_bar_heights", "freq_hist_data_bar_values"), NUMBERS)
        | dict.fromkeys(("logits_hist_data_bar_heights", "logits_hist_data_bar_values"), NUMBERS),
    ),
    "Activation": _columns(
        {"id": TEXT, **_OF_LATENT, "tokens": TEXTS, "values": NUMBERS, "creatorId": TEXT}
        | {"maxValue": NUMBER, "minValue": NUMBER, "maxValueTokenIndex": WHOLE},
        {"dataIndex": TEXT, "dataSource": TEXT, "createdAt": TIME, "qualifyingTokenIndex": WHOLE}
        | dict.fromkeys(("binMin", "binMax", "binContains"), NUMBER),
    ),
    "Explanation": _columns(
        {"id": TEXT, **_OF_LATENT, "description": TEXT, "authorId": TEXT}, {"createdAt": TIME, "updatedAt": TIME}
    ),
}
FILES = {"release": "SourceRelease", "model": "Model", "sourceset": "SourceSet", "source": "Source"}
BATCHES = {"features": "Neuron", "activations": "Activation", "explanations": "Explanation"}


def read_source(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that a source's folder has for each table. Fails where a row is none of its table."""
    found = {table: [json.loads(line) for line in _lines(folder / f"{name}.jsonl")] for name, table in FILES.items()}
    for name, table in BATCHES.items():
        files = sorted((folder / name).glob("batch-*.jsonl.gz"), key=lambda file: int(file.name[6:].partition(".")[0]))
        batches = [[json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()] for file in files]
        for batch in batches:  # the importer takes the columns of the first line for those of all
            assert all(row.keys() == batch[0].keys() for row in batch)
        found[table] = [row for batch in batches for row in batch]
    for table, rows in found.items():
        for row in rows:
            _require_row(row, TABLES[table])
    return found


def require_links(found: dict[str, list[dict[str, Any]]]) -> None:
    """Fail unless every row belongs to rows that are there."""
    (release,), (model,), (source_set,), (source,) = (found[table] for table in FILES.values())
    assert source_set["releaseName"] == release["name"]
    assert source_set["modelId"] == source["modelId"] == model["id"]
    assert source["setName"] == source_set["name"]
    latents = {row["index"] for row in found["Neuron"]}
    assert len(latents) == len(found["Neuron"])
    for row in [*found["Neuron"], *found["Activation"], *found["Explanation"]]:
        assert (row["modelId"], row["layer"]) == (model["id"], source["id"])
        assert row["index"] in latents
    assert len({row["id"] for row in found["Activation"]}) == len(found["Activation"])


def _require_row(row: dict[str, Any], columns: Columns) -> None:
    assert {name for name, (_, is_required) in columns.items() if is_required} <= row.keys() <= columns.keys()
    for name, value in row.items():
        kind, is_required = columns[name]
        items = value if kind.endswith("[]") else [value]
        wanted = KINDS[kind.removesuffix("[]")]
        right = all(isinstance(item, wanted) and (wanted is bool or not isinstance(item, bool)) for item in items)
        assert right or (value is None and not is_required), (name, value)


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()
