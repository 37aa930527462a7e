"""The data of the page of latents: the same numbers and texts as in the payload that it shows."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmsae.interpretation.leaves import LATENTS_A_FILE, details, name_places, round_digits, script, short
from lmsae.interpretation.rendering import render, write_page
from lmsae.interpretation.schema import CONTEXTS, CONTEXTS_SCHEMA, LATENTS_SCHEMA, Location
from tests.interpretation.measured import WORDS, contexts, info, latent, write_measured


def data(file: Path) -> Any:
    """What a script hands over."""
    text = file.read_text("utf-8")
    assert text.startswith(f'take("{file.stem}",')
    return json.loads(text[text.index(",") + 1 :].removesuffix(")\n"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 70 latents, of which those with an odd number have contexts."""
    folder = tmp_path_factory.mktemp("page")
    pieces = [piece for number in range(1, 70, 2) for piece in contexts(number)]
    (folder / "page").mkdir()
    write_page(
        write_measured(folder / "measured", [latent(number, 70) for number in range(70)], pieces), folder / "page"
    )
    return folder / "page"


def test_every_latent_is_in_the_file_of_its_number(page: Path) -> None:
    assert sorted(file.name for file in (page / "data").iterdir()) == ["0.js", "1.js", "2.js", "latents.js"]
    for number in (1, 31, 33, 69):
        file, place = divmod(number, LATENTS_A_FILE)
        found = data(page / "data" / f"{file}.js")["latents"][place]
        assert found["encoder_norm"] == float(f"{2 + number / 70:.4g}")
        assert {one["document"] for one in found["contexts"]} == {f"docs/<script>{number}.py"}
    assert data(page / "data" / "2.js")["latents"][4]["contexts"] == []


def test_the_table_has_every_latents_numbers_and_first_tokens(page: Path) -> None:
    found = data(page / "data" / "latents.js")
    rows = [latent(number, 70) for number in range(70)]
    assert found["columns"]["active_tokens"] == [row["active_tokens"] for row in rows]
    for name in ("firing_rate", "max_activation", "mean_active", "decoder_norm"):
        wanted = [row[name] if row[name] is None else float(f"{row[name]:.6g}") for row in rows]
        assert found["columns"][name] == wanted
    for name in ("top_tokens", "promoted", "suppressed"):
        texts = [[found["words"][place] for place in places] for places in found["columns"][name]]
        assert texts == [[token["text"] for token in row[name]][:3] for row in rows]
    assert "explanation" not in found["columns"]


def test_a_context_has_its_tokens_with_ids_and_its_activations(page: Path) -> None:
    found = data(page / "data" / "0.js")
    for told, piece in zip(found["latents"][7]["contexts"], contexts(7), strict=True):
        assert [found["words"][place] for place in told["tokens"]] == [
            [number, word] for number, word in enumerate(WORDS)
        ]
        pairs = dict(zip(told["activations"][::2], told["activations"][1::2], strict=True))
        assert [pairs.get(place, 0.0) for place in range(len(WORDS))] == piece["activations"]
        for name in ("kind", "activation", "document", "context", "position", "start"):
            assert told[name] == piece[name]


def test_a_token_of_one_id_may_have_several_texts() -> None:
    """Parts of one letter are tokens whose text depends on what stands beside them."""
    pieces = contexts(0, [*WORDS])[:1]
    pieces[0] |= {"tokens": [7, 7, 8], "texts": ["a", "b", "a"], "activations": [1.0, 0.0, 0.0]}
    found = details(pa.Table.from_pylist([latent(0)], LATENTS_SCHEMA), pa.Table.from_pylist(pieces, CONTEXTS_SCHEMA))
    assert [found["words"][place] for place in found["latents"][0]["contexts"][0]["tokens"]] == [
        [7, "a"],
        [7, "b"],
        [8, "a"],
    ]


def test_a_part_of_a_table_is_described_like_a_table_of_its_own() -> None:
    rows, pieces = [latent(number) for number in range(6)], [piece for number in range(6) for piece in contexts(number)]
    latents, found = pa.Table.from_pylist(rows, LATENTS_SCHEMA), pa.Table.from_pylist(pieces, CONTEXTS_SCHEMA)
    each = len(pieces) // 6
    alone = (pa.Table.from_pylist(rows[4:], LATENTS_SCHEMA), pa.Table.from_pylist(pieces[4 * each :], CONTEXTS_SCHEMA))
    assert details(latents.slice(4), found.slice(4 * each)) == details(*alone)


def test_a_page_is_the_same_bytes_whenever_it_is_written(page: Path, tmp_path: Path) -> None:
    write_page(page.parent / "measured", tmp_path)
    for file in page.rglob("*.*"):
        assert (tmp_path / file.relative_to(page)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("rows", [1, 7, 100_000])
def test_pieces_of_text_are_found_however_the_file_divides_them(page: Path, tmp_path: Path, rows: int) -> None:
    shutil.copytree(page.parent / "measured", tmp_path / "measured")
    table = pq.read_table(tmp_path / "measured" / CONTEXTS)
    pq.write_table(table, tmp_path / "measured" / CONTEXTS, row_group_size=rows)
    write_page(tmp_path / "measured", tmp_path)
    for file in (page / "data").iterdir():
        assert (tmp_path / "data" / file.name).read_bytes() == file.read_bytes()


def test_a_page_may_have_no_pieces_of_text(tmp_path: Path) -> None:
    write_page(write_measured(tmp_path / "measured", [latent(number) for number in range(40)], []), tmp_path)
    assert [one["contexts"] for one in data(tmp_path / "data" / "1.js")["latents"]] == [[]] * 8


def test_lists_that_are_missing_stay_missing() -> None:
    column = pa.chunked_array([pa.array([[1.0, 2.00004], None, []]), pa.array([[math.nan, 3.0]])])
    assert short(column) == [[1.0, 2.0], None, [], [None, 3.0]]


def test_numbers_keep_four_digits() -> None:
    values = np.array([0.123456, 12345.6, -0.00098761, 0.0, 1e-30, 7.0, math.inf])
    assert round_digits(values).tolist() == [0.1235, 12350.0, -0.0009876, 0.0, 1e-30, 7.0, math.inf]


def test_no_tag_and_no_end_of_a_line_stands_in_a_script() -> None:
    text = script("name", {"text": "</script>\u2028<!--"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text[text.index(",") + 1 : -2]) == {"text": "</script>\u2028<!--"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        script("name", {"number": math.nan})


def test_a_page_is_named_after_its_hook_points_and_escapes_their_names() -> None:
    few, many = ([Location(model=0, hook_point=f"blocks.{layer}.<b>") for layer in range(count)] for count in (2, 12))
    assert name_places(info(8)) == "blocks.0.hook_resid_post"
    assert (
        name_places(info(8, reads=few, writes=many)) == "blocks.0.<b>, blocks.1.<b> → blocks.0.<b> … blocks.11.<b> (12)"
    )
    page = render(info(8000, reads=few, writes=few))
    assert "<title>8,000 latents · tiny-lm · blocks.0.&lt;b&gt;, blocks.1.&lt;b&gt;</title>" in page
