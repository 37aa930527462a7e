"""Bundles for Neuronpedia, written: what the stage `features` found, in the layout that Neuronpedia imports.

    v1/MODEL_ID/LAYER-SLUG/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl    a line each
                           features/batch-N.jsonl.gz       a line a latent
                           activations/batch-N.jsonl.gz    a line a piece of text
                           explanations/batch-N.jsonl.gz   a line an explained latent, if there are any

A *source* is a dictionary at one layer, a *source set* those with one slug at several layers, a *release* several sets.
A line is a row of one of Neuronpedia's tables, by the names of its columns. Those that are left out take its defaults:
among them are correlations with neurons and with other latents, which no stage measures.

Codes are those of raw activations, the same that a SAELens folder of the dictionary gives. Tokens that do not count
have a code of 0. The same dictionary gives the same bytes.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

VERSION = "v1"
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that every instance of Neuronpedia has from the start, to whom rows belong."""
MODEL_ID = re.compile(r"[a-z0-9_-]{1,128}")
SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]*")
TOP_BIN, TOP_BIN_END = -1.0, 99.0
"""The bounds by which its page knows the pieces with the largest codes; the second is at least the largest code."""
ALIGNED = 3
"""Dimensions of the hook point that are listed for each latent."""


@dataclass(frozen=True, slots=True)
class Model:
    """A language model: its id there, its name here, and its sizes."""

    id: str
    name: str
    layers: int
    d_model: int
    d_mlp: int


@dataclass(frozen=True, slots=True)
class Source:
    """A dictionary at one layer, and where and how Neuronpedia is to show it. Latents are counted from 0 there."""

    model: Model
    layer: int
    slug: str
    release: str
    title: str
    creator: str
    creator_id: str
    created: str
    """The time at which it was made, as ISO 8601 with a zone."""
    urls: Sequence[str]
    hook_name: str
    dataset: str
    contexts: int
    context_size: int
    tokens: int
    quantiles: int

    @property
    def id(self) -> str:
        """LAYER-SLUG."""
        return f"{self.layer}-{self.slug}"

    @property
    def folder(self) -> Path:
        """Its place in a bundle."""
        return Path(VERSION, self.model.id, self.id)


Aligned = Mapping[str, Sequence[Sequence[Any]]]
"""Of latents in order: the dimensions with the largest entries of the decoder row, those entries, and their shares of
the sum of all sizes, as lists by Neuronpedia's names."""


def name_model(name: str) -> str:
    """Neuronpedia's id of a model, as far as its name tells: `gpt2` of `openai-community/GPT2`."""
    last = name.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-") or "model"


def write_source(
    source: Source, folder: Path, groups: Iterable[tuple[pa.Table, pa.Table, Aligned]], first: int = 0
) -> None:
    """Write the files of a source into the folder of a bundle.

    `groups` have some latents each, in order: rows of latents.parquet, the rows of contexts.parquet that show them, and
    their aligned dimensions. `first` is the number of the first latent, which is 0 in the source.
    """
    out = folder / source.folder
    out.mkdir(parents=True)
    for name, row in _descriptions(source).items():
        (out / f"{name}.jsonl").write_text(_line(row), "utf-8")
    for number, (latents, contexts, aligned) in enumerate(groups):
        rows = latents.to_pylist()
        largest = {row["latent"]: row["max_activation"] for row in rows}
        shares = {row["latent"]: _shares_of_bins(row["histogram"], source) for row in rows}
        pieces = (_piece(source, piece, largest, shares, first) for piece in contexts.to_pylist())
        described = (_latent(source, row, aligned, at, first) for at, row in enumerate(rows))
        _write_batch(out / "features", number, described)
        _write_batch(out / "activations", number, pieces)
        _write_batch(out / "explanations", number, (_explanation(source, row, first) for row in rows if _said(row)))


def _descriptions(source: Source) -> dict[str, dict[str, object]]:
    model, made = source.model, {"creatorId": source.creator_id, "createdAt": source.created}
    return {
        "release": {
            "name": source.release,
            "description": source.title,
            "descriptionShort": source.title,
            "urls": list(source.urls),
            "creatorName": source.creator,
            "creatorNameShort": source.creator,
            "visibility": "PUBLIC",
            **made,
        },
        "model": {
            "id": model.id,
            "displayName": model.name,
            "displayNameShort": model.id,
            "layers": model.layers,
            "neuronsPerLayer": model.d_mlp,
            "dimension": model.d_model,
            "owner": source.creator,
            "visibility": "PUBLIC",
            **made,
            "updatedAt": source.created,
        },
        "sourceset": {
            "modelId": model.id,
            "name": source.slug,
            "description": source.title,
            "creatorName": source.creator,
            "releaseName": source.release,
            "urls": list(source.urls),
            "visibility": "PUBLIC",
            **made,
        },
        "source": {
            "id": source.id,
            "modelId": model.id,
            "setName": source.slug,
            "dataset": source.dataset,
            "num_prompts": source.contexts,
            "num_tokens_in_prompt": source.context_size,
            "visibility": "PUBLIC",
            "notes": f"{source.hook_name}; {source.tokens:,} tokens counted",
            **made,
        },
    }


def _latent(source: Source, row: Mapping[str, Any], aligned: Aligned, at: int, first: int) -> dict[str, object]:
    histogram, largest = row["histogram"], row["max_activation"]
    width = largest / len(histogram)
    neighbors = [one for one in row["neighbors"] or [] if first <= one["latent"]]
    return {
        **_place(source, row["latent"] - first),
        "sourceSetName": source.slug,
        "creatorId": source.creator_id,
        "createdAt": source.created,
        "maxActApprox": largest,
        "hasVector": False,
        "frac_nonzero": row["firing_rate"],
        "freq_hist_data_bar_heights": histogram if largest else [],
        "freq_hist_data_bar_values": [(number + 0.5) * width for number in range(len(histogram))] if largest else [],
        "topkCosSimIndices": [one["latent"] - first for one in neighbors],
        "topkCosSimValues": [one["cosine"] for one in neighbors],
        "pos_str": [one["text"] for one in row["promoted"] or []],
        "pos_values": [one["logit"] for one in row["promoted"] or []],
        "neg_str": [one["text"] for one in row["suppressed"] or []],
        "neg_values": [one["logit"] for one in row["suppressed"] or []],
        **{name: list(lists[at]) for name, lists in aligned.items()},
    }


def _piece(
    source: Source,
    piece: Mapping[str, Any],
    largest: Mapping[int, float],
    shares: Mapping[int, Sequence[float | None]],
    first: int,
) -> dict[str, object]:
    """The row of a piece of text. Of a bin its bounds are told, and the share of all tokens whose code is in it."""
    latent, kind, values = piece["latent"], piece["kind"], [value or 0.0 for value in piece["activations"]]
    low, high, share = TOP_BIN, max(TOP_BIN_END, largest[latent]), TOP_BIN
    if kind != "top":
        number, width = int(kind[1:]) - 1, largest[latent] / source.quantiles
        low, high, share = number * width, (number + 1) * width, shares[latent][number]
    return {
        "id": _identify(source.folder, latent, kind, piece["rank"]),
        **_place(source, latent - first),
        "tokens": piece["texts"],
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": values.index(max(values)),
        "minValue": min(values),
        "qualifyingTokenIndex": piece["position"] - piece["start"],
        "binMin": low,
        "binMax": high,
        "binContains": share,
        "dataSource": source.dataset,
        "dataIndex": piece["document"],
        "creatorId": source.creator_id,
        "createdAt": source.created,
    }


def _explanation(source: Source, row: Mapping[str, Any], first: int) -> dict[str, object]:
    return {
        "id": _identify(source.folder, row["latent"], "explanation", 0),
        **_place(source, row["latent"] - first),
        "description": _said(row),
        "authorId": source.creator_id,
        "createdAt": source.created,
        "updatedAt": source.created,
    }


def _said(row: Mapping[str, Any]) -> str | None:
    return row.get("explanation")


def _place(source: Source, number: int) -> dict[str, object]:
    return {"modelId": source.model.id, "layer": source.id, "index": str(number)}


def _shares_of_bins(histogram: Sequence[int], source: Source) -> Sequence[float | None]:
    """The share of all tokens whose code is in each quantile bin; None where the histogram's bins do not fill them."""
    per_bin, rest = divmod(len(histogram), source.quantiles)
    if rest:
        return [None] * source.quantiles
    edges = range(0, len(histogram) + 1, per_bin)
    return [sum(histogram[start:stop]) / source.tokens for start, stop in pairwise(edges)]


def _identify(*parts: object) -> str:
    """An id of the length of Neuronpedia's own, the same whenever the same is exported."""
    return "c" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]


def _write_batch(folder: Path, number: int, rows: Iterator[Mapping[str, object]]) -> None:
    """Write rows as lines, compressed; no file where there is no row."""
    text = "".join(_line(row) for row in rows)
    if text:
        folder.mkdir(exist_ok=True)
        packed = gzip.compress(text.encode(), compresslevel=5, mtime=0)
        (folder / f"batch-{number}.jsonl.gz").write_bytes(packed)


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
