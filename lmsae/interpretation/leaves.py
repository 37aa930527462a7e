"""The data of a page of latents: what each script of its folder `data/` says.

A page that is opened from disk may not read files, but it may run scripts. So its data are scripts that call one
function, `take(name, data)`, with JSON. `latents.js` has what the table shows of all latents. `0.js`, `1.js` and so on
have all else of LATENTS_A_FILE latents each, and are loaded when one of those is opened.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from lmsae.interpretation.explaining.config import SCORERS
from lmsae.interpretation.schema import Info

LATENTS_A_FILE = 32
SHOWN = 3
"""The tokens of each kind that the table shows of a latent."""

Words = dict[tuple[int, str], int]
"""The tokens that a file uses, as (id, text), each with its place: other parts of the file say the place."""


def script(name: str, data: Mapping[str, Any]) -> str:
    """A script that hands data over. Numbers that are no numbers are refused, because JSON has none."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A line separator is a line's end in old browsers' scripts, and a tag might end a script that somebody inlines.
    for sign in "<\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f"take({json.dumps(name)},{text})\n"


def overview(latents: pa.Table, info: Info) -> dict[str, Any]:
    """All that the table shows of the latents, column by column, and the facts that hold for all of them."""
    words: Words = {}
    columns: dict[str, Any] = {
        name: short(latents[name], digits=6)
        for name in ("firing_rate", "max_activation", "mean_active", "decoder_norm")
    }
    columns["active_tokens"] = latents["active_tokens"].to_pylist()
    for name in ("top_tokens", "promoted", "suppressed"):
        columns[name] = [_places(found, words) for found in _first_tokens(latents[name])]
    if "explanation" in latents.column_names:
        columns["explanation"] = latents["explanation"].to_pylist()
    columns |= {name: short(latents[name]) for name in SCORERS if name in latents.column_names}
    return {
        "info": info.model_dump(mode="json"),
        "places": name_places(info),
        "latents_a_file": LATENTS_A_FILE,
        "columns": columns,
        "words": _texts(words),
    }


def name_places(info: Info) -> str:
    """The hook points read, and those written if they are others; of many, the first and the last."""
    read, written = (_shorten([*dict.fromkeys(one.hook_point for one in side)]) for side in (info.reads, info.writes))
    return read if read == written else f"{read} → {written}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)})"


def details(latents: pa.Table, contexts: pa.Table) -> dict[str, Any]:
    """All that a page shows of some latents, whose contexts are these: a list of latents, and the tokens they name."""
    words: Words = {}
    found = {int(latent): [] for latent in latents["latent"].to_numpy()}
    for one in _contexts(contexts, words):
        found[one.pop("latent")].append(one)
    plain = {
        name: short(latents[name])
        for name in ("encoder_norm", "histogram", "position_rate", "write_norms", "read_norms")
    }
    described = []
    for row, latent in enumerate(latents.select([*_OF_TOKENS, *_OF_LATENTS, "latent"]).to_pylist()):
        tokens = {name: _listed(latent[name], fields, words) for name, fields in _OF_TOKENS.items()}
        others = {name: _plainly(latent[name], fields) for name, fields in _OF_LATENTS.items()}
        numbers = {name: values[row] for name, values in plain.items()}
        described.append({**numbers, **tokens, **others, "contexts": found[latent["latent"]]})
    return {"latents": described, "words": [[token, text] for token, text in words]}


_OF_TOKENS = {"top_tokens": ("active", "rate", "mean"), "promoted": ("logit",), "suppressed": ("logit",)}
"""The lists of tokens that a latent has, and the numbers beside each token."""
_OF_LATENTS = {"neighbors": ("latent", "cosine"), "companions": ("latent", "phi")}


def short(column: pa.ChunkedArray, digits: int = 4) -> list[Any]:
    """Numbers, or lists of them, with so many digits that count. Null stays null, and so becomes what is no number."""
    if not pa.types.is_list(column.type):
        return _round(column.combine_chunks(), digits)
    offsets, values = _flat(column)
    numbers, there = _round(values, digits), column.is_valid().to_pylist()
    return [numbers[a:b] if is_there else None for (a, b), is_there in zip(pairwise(offsets), there, strict=True)]


def _flat(lists: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """The offsets at which lists begin, with one more for the end; and the values of all lists, one after the other."""
    array = lists.combine_chunks()
    offsets = array.offsets.to_numpy()
    return offsets - offsets[0], array.flatten()


def _round(column: pa.Array, digits: int) -> list[Any]:
    if pa.types.is_integer(column.type):
        return column.to_pylist()
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    rounded, finite = round_digits(values, digits).tolist(), np.isfinite(values).tolist()
    return [number if is_finite else None for number, is_finite in zip(rounded, finite, strict=True)]


def round_digits(values: np.ndarray, digits: int = 4) -> np.ndarray:
    """Float64 numbers with so many digits that count. Zeros and what is no number are left alone."""
    size = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values))
    power = np.floor(np.log10(size, where=size > 0, out=np.zeros_like(values)))
    scale = 10.0 ** np.clip(digits - 1 - power, -300, 300)
    return np.where(size > 0, np.round(values * scale) / scale, values)


def _first_tokens(column: pa.ChunkedArray) -> Iterator[list[tuple[int, str]]]:
    """Of each latent the first tokens of a list of structs, as (id, text)."""
    offsets, values = _flat(column)
    tokens, texts = values.field("token").to_pylist(), values.field("text").to_pylist()
    for begin, end in pairwise(offsets):
        few = slice(begin, min(end, begin + SHOWN))
        yield [*zip(tokens[few], texts[few], strict=True)]


def _places(tokens: Iterable[tuple[int, str]], words: Words) -> list[int]:
    return [words.setdefault(token, len(words)) for token in tokens]


def _texts(words: Words) -> list[str]:
    return [text for _, text in words]


def _listed(found: Sequence[Mapping[str, Any]] | None, fields: Sequence[str], words: Words) -> list[Any] | None:
    """A list of structs of tokens as lists: the token's place and its numbers."""
    if found is None:
        return None
    places = _places(((one["token"], one["text"]) for one in found), words)
    return [[place, *numbers] for place, numbers in zip(places, _plainly(found, fields) or [], strict=True)]


def _plainly(found: Sequence[Mapping[str, Any]] | None, fields: Sequence[str]) -> list[list[Any]] | None:
    return None if found is None else [[_digits(one[field]) for field in fields] for one in found]


def _digits(number: float | None) -> float | None:
    if number is None or isinstance(number, int):
        return number
    return float(f"{number:.4g}") if np.isfinite(number) else None


def _contexts(contexts: pa.Table, words: Words) -> Iterator[dict[str, Any]]:
    """Each context with its tokens by their places in `words` and its activations as (where, how much) by turns."""
    places, (offsets, activations) = _word_places(contexts, words), _flat(contexts["activations"])
    values = activations.to_numpy(zero_copy_only=False)
    rest = contexts.drop_columns(["tokens", "texts", "activations"]).to_pylist()
    for context, (begin, end) in zip(rest, pairwise(offsets), strict=True):
        own = np.nan_to_num(values[begin:end].astype(np.float64))  # a token that does not count has none
        where = np.flatnonzero(own)
        turns = zip(where.tolist(), round_digits(own[where]).tolist(), strict=True)
        found = {
            "latent": context["latent"],
            "kind": context["kind"],
            "activation": _digits(context["activation"]),
            "document": context["document"],
            "context": context["context"],
            "position": context["position"],
            "start": context["start"],
            "tokens": places[begin:end],
            "activations": [number for turn in turns for number in turn],
        }
        if context.get("source_positions") is not None:
            weights = [_digits(weight) for weight in context["source_weights"]]
            found["pattern"] = [list(pair) for pair in zip(context["source_positions"], weights, strict=True)]
        yield found


def _word_places(contexts: pa.Table, words: Words) -> list[int]:
    """The place in `words` of every token of all contexts, one context after the other."""
    ids = _flat(contexts["tokens"])[1].to_numpy()
    texts = _flat(contexts["texts"])[1].dictionary_encode()
    spelled, spellings = texts.indices.to_numpy(), texts.dictionary.to_pylist()
    pairs, inverse = np.unique(np.stack([ids.astype(np.int64), spelled.astype(np.int64)]), axis=1, return_inverse=True)
    known = _places(((int(token), spellings[text]) for token, text in pairs.T), words)
    return np.asarray(known, dtype=np.int64)[inverse.reshape(-1)].tolist()
