"""Reading features back: by latent, as tables, by other programs, and with an error that says what is wrong."""

import json
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from lmsae.errors import FolderError
from lmsae.interpretation.opening import open_features
from lmsae.interpretation.schema import CONTEXTS, GROUP_LATENTS, LATENTS
from tests.interpretation.conftest import SHOWN, describe_in, make_dictionary, make_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return describe_in(tmp_path, make_dictionary("topk"), make_text()).folder


def test_a_latent_and_its_contexts_are_those_of_the_tables(folder: Path) -> None:
    features = open_features(folder)
    assert features.latents().to_pylist()[5] == features.latent(5)
    of_five = [row for row in features.contexts().to_pylist() if row["latent"] == 5]
    assert features.contexts(5).to_pylist() == of_five
    assert features.contexts(5).schema == features.contexts().schema


def test_a_latent_that_never_fires_has_nulls_and_no_contexts(folder: Path) -> None:
    dead = open_features(folder).latent(0)
    assert (dead["active_tokens"], dead["firing_rate"], dead["max_activation"]) == (0, 0, 0)
    assert dead["mean_active"] is None
    assert dead["histogram"] == [0] * SHOWN.histogram_bins
    assert dead["top_tokens"] == dead["companions"] == []
    assert len(dead["neighbors"]) == SHOWN.neighbors
    assert open_features(folder).contexts(0).num_rows == 0


def test_row_groups_hold_whole_latents_in_order(tmp_path: Path) -> None:
    dictionary, text = make_dictionary("topk", d_sae=GROUP_LATENTS + 40), make_text()
    folder = describe_in(tmp_path, dictionary, text).folder
    for file in (LATENTS, CONTEXTS):
        groups = [pq.ParquetFile(folder / file).read_row_group(group)["latent"].to_pylist() for group in (0, 1)]
        assert pq.ParquetFile(folder / file).num_row_groups == 2
        assert max(groups[0]) < GROUP_LATENTS <= min(groups[1])
        assert groups == [sorted(group) for group in groups]
    assert open_features(folder).latent(GROUP_LATENTS + 3)["latent"] == GROUP_LATENTS + 3
    assert {row["latent"] for row in open_features(folder).contexts(GROUP_LATENTS + 3).to_pylist()} <= {
        GROUP_LATENTS + 3
    }


def test_other_programs_read_the_same(folder: Path) -> None:
    wanted = open_features(folder).latents()["active_tokens"].to_pylist()
    file = str(folder / LATENTS)
    assert pd.read_parquet(file)["active_tokens"].tolist() == wanted
    assert pl.read_parquet(file)["active_tokens"].to_list() == wanted
    asked = duckdb.connect()
    assert [row[0] for row in asked.execute(f"select active_tokens from '{file}'").fetchall()] == wanted
    texts = asked.execute(f"select array_to_string(texts, '') from '{folder / CONTEXTS}'").fetchall()
    asked.close()
    assert [text for (text,) in texts] == [
        "".join(row["texts"]) for row in open_features(folder).contexts().to_pylist()
    ]


def test_a_number_beyond_the_latents_says_how_many_there_are(folder: Path) -> None:
    with pytest.raises(IndexError, match=r"latent 16: .* has 16, counted from 0"):
        open_features(folder).latent(16)


def test_a_folder_that_holds_none_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"features\.json is missing, .* `lmsae run` makes one"):
        open_features(tmp_path)


def test_another_version_is_refused_by_name(folder: Path) -> None:
    info = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(info | {"schema_version": 2}))
    with pytest.raises(FolderError, match=r"schema_version: found 2; .* another version"):
        open_features(folder)


def test_a_table_that_is_cut_short_is_named(folder: Path) -> None:
    whole = (folder / LATENTS).read_bytes()
    (folder / LATENTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FolderError, match=r"latents\.parquet cannot be read"):
        open_features(folder).latents()
