"""The page of a dictionary's latents: a folder that opens from disk, in any browser, without a network."""

import base64
import hashlib
import html
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmsae.interpretation.explaining.on_disk import with_explanations
from lmsae.interpretation.leaves import LATENTS_A_FILE, details, name_places, overview, script
from lmsae.interpretation.schema import CONTEXTS, INFO, LATENTS, Info

SCRIPTS = ("text.js", "charts.js", "overview.js", "detail.js", "page.js")
"""The parts of the page's script, in order: each may use what stands before it."""
_SHOWN_OF_ALL = ("active_tokens", "firing_rate", "mean_active", "max_activation", "decoder_norm")
_TOKENS_OF_ALL = ("top_tokens", "promoted", "suppressed")


def write_page(measured: Path, out: Path, explanations: pa.Table | None = None) -> None:
    """Write `index.html` and `data/*.js` into `out`, from the payload of the stage `features`.

    The same bytes for the same payload. An explanation of each latent is shown if latents.parquet has such a column, or
    if there are `explanations` with their scores.
    """
    info = Info.model_validate_json((measured / INFO).read_text("utf-8"))
    latents, contexts = pq.ParquetFile(measured / LATENTS), pq.ParquetFile(measured / CONTEXTS)
    there = set(latents.schema_arrow.names)
    (out / "data").mkdir(exist_ok=True)
    shown = [name for name in (*_SHOWN_OF_ALL, *_TOKENS_OF_ALL, "explanation") if name in there]
    table = latents.read(shown)
    if explanations is not None:
        table = with_explanations(table, range(len(table)), explanations)
    _write(out, "latents", overview(table, info))
    pieces = _Pieces(contexts)
    for group in range(latents.num_row_groups):
        described = latents.read_row_group(group)
        for begin in range(0, len(described), LATENTS_A_FILE):
            some = described.slice(begin, LATENTS_A_FILE)
            first, last = some["latent"][0].as_py(), some["latent"][-1].as_py()
            _write(out, str(first // LATENTS_A_FILE), details(some, pieces.before(last + 1)))
    (out / "index.html").write_text(render(info), "utf-8")


def render(info: Info) -> str:
    """The HTML of the page, with its style and script. Its policy lets it run those and the scripts beside it, and
    nothing else: no request, image, font or form."""
    folder = files("lmsae.interpretation") / "assets"
    style = (folder / "page.css").read_text("utf-8")
    parts = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    code = f'"use strict";\n{{\n{parts}}}\n'  # a block, so that the names in it are not the window's
    policy = (
        f"default-src 'none'; script-src 'self' file: '{_digest(code)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (folder / "page.html").read_text("utf-8")
    values = {"title": html.escape(title(info)), "policy": policy, "style": style, "script": code}
    return re.sub(r"{{ (\w+) }}", lambda place: values[place[1]], page)


def title(info: Info) -> str:
    """The facts that tell a dictionary from others: its size, models and hook points."""
    return " · ".join([f"{info.latents:,} latents", *info.models, name_places(info)])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(out: Path, name: str, data: dict[str, Any]) -> None:
    (out / "data" / f"{name}.js").write_text(script(name, data), "utf-8")


class _Pieces:
    """The rows of contexts.parquet, which come by latent, read once from the first to the last."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._groups = (file.read_row_group(number) for number in range(file.num_row_groups))
        self._read = file.schema_arrow.empty_table()

    def before(self, latent: int) -> pa.Table:
        """The rows of the latents before this one that were not given before."""
        found = []
        while True:
            count = int(np.searchsorted(self._read["latent"].to_numpy(), latent))
            found.append(self._read.slice(0, count))
            self._read = self._read.slice(count)
            if len(self._read) or (group := next(self._groups, None)) is None:
                return pa.concat_tables(found).combine_chunks()
            self._read = group
