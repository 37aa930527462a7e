"""The stage `features`: real activations of a real tiny model, against the dictionary run over the same tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmsae as package
from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import MissingArtifact
from lmsae.interpretation.opening import Features
from lmsae.stages.interpret import FeaturesSection
from lmsae.store.reader import StoreReader
from lmsae.text.tokens import open_tokens
from tests.interpretation.brute_force import numbers_of, peaks_of
from tests.miniature import ROWS, Said, keys, make_until, row_of, write_config, write_sweep

Lmsae = Callable[..., Said]
WANTED = {"tokens": 3000, "top_contexts": 3, "quantiles": 2, "quantile_samples": 2, "companions": 3}


def found(row: str) -> Features:
    return package.features(row)


def inputs_of(features: Features) -> dict[str, Path]:
    artifacts = Artifacts(Path("artifacts"))
    return {name: artifacts[one].path for name, one in Artifact(features.folder).spec().inputs.items()}


def require_true(features: Features, codes: np.ndarray, ids: np.ndarray, counted: np.ndarray, first: int) -> None:
    """The numbers and peaks of every latent are those of dense codes (contexts, context_size, latents)."""
    from lmsae.interpretation.config import Shown

    shown = Shown(**{name: value for name, value in WANTED.items() if name != "tokens"})
    assert features.info.tokens == counted.sum()
    for latent, row in enumerate(features.latents().to_pylist()):
        wanted = numbers_of(codes, ids, counted, latent, shown)
        tokens = [(one["token"], one["active"], one["rate"], one["mean"]) for one in row["top_tokens"]]
        companions = [(one["latent"], one["phi"]) for one in row["companions"]]
        assert {name: row[name] for name in wanted} | {"top_tokens": tokens, "companions": companions} == wanted
        pieces = features.contexts(latent).to_pylist()
        peaks = [(one["kind"], (one["context"] - first) * ids.shape[1] + one["position"]) for one in pieces]
        assert peaks == peaks_of(codes, counted, latent, shown, first * ids.shape[1])
        assert features.latent(latent) == row


@pytest.fixture
def swept(made: Path) -> Path:
    """The miniature's sweep in the working directory, with features of few tokens."""
    write_config(made, features=WANTED)
    make_until("features")
    return made


@pytest.mark.xdist_group("features")
def test_features_of_stored_activations_are_those_of_dense_codes(swept: Path) -> None:
    for row in ("top", "batch", "jump", "plain"):
        features = found(row)
        inputs = inputs_of(features)
        tokens, store = open_tokens(inputs["tokens"]), StoreReader(inputs["activations"] / "activations.zarr")
        first = tokens.calibration_contexts
        here = slice(first, first + 3000 // 32)
        with torch.inference_mode():
            x = store.read(here.start, here.stop)
            codes = Dictionary.load(inputs["dictionary"]).encode(x).numpy()
        require_true(features, codes, tokens.train[here], tokens.usable("train", here), first)


def test_features_on_held_out_text_run_the_model(swept: Path, lmsae: Lmsae) -> None:
    write_config(swept, features={**WANTED, "split": "held_out", "tokens": 1000, "batch_contexts": 4})
    write_sweep(swept, ROWS[:1])
    assert lmsae("plan", "--quiet").code == 0
    assert lmsae("features").code == 0
    features = found("top")
    inputs = inputs_of(features)
    tokens = open_tokens(inputs["tokens"])
    here = slice(0, 1000 // 32)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("model")
    ids = torch.from_numpy(tokens.held_out[here].astype("int64"))
    with torch.inference_mode():
        parts = [model(part, output_hidden_states=True).hidden_states[1] for part in ids.split(4)]
        codes = Dictionary.load(inputs["dictionary"]).encode(torch.cat(parts)).numpy()
    require_true(features, codes, tokens.held_out[here], tokens.usable("held_out", here), 0)
    assert features.info.split == "held_out"


def test_a_lorsas_peaks_say_where_they_attend_to(swept: Path, lmsae: Lmsae) -> None:
    write_sweep(swept, [row_of("lorsa")])
    assert lmsae("plan", "--quiet").code == 0
    for command in ("activations", "norm", "init", "train", "features"):
        assert lmsae(command).code == 0
    features = found("lorsa")
    inputs = inputs_of(features)
    dictionary, store = Dictionary.load(inputs["dictionary"]), StoreReader(inputs["activations"] / "activations.zarr")
    top = [row for row in features.contexts().to_pylist() if row["kind"] == "top"]
    assert len(top) > 50
    for row in top:
        x = dictionary.read(store.read(row["context"], row["context"] + 1)[0])
        at = torch.tensor([row["latent"]]), torch.tensor([row["position"]])
        pattern = dictionary.geometry.attend(x, *at)[0]  # pyright: ignore[reportCallIssue]
        kept = min(8, row["position"] + 1)
        wanted = pattern.topk(kept)
        np.testing.assert_allclose(row["source_weights"], wanted.values, atol=1e-6)
        np.testing.assert_allclose(pattern[row["source_positions"]], wanted.values, atol=1e-6)


def test_live_activations_give_the_bytes_of_stored_ones(swept: Path, lmsae: Lmsae) -> None:
    stored = found("top").folder
    write_config(swept, features=WANTED, activations={"source": "live"})
    write_sweep(swept, ROWS[:1])
    for command in ("plan", "activations", "norm", "init", "train", "features"):
        assert lmsae(command).code == 0
    live = found("top").folder
    assert live != stored
    for file in ("features.json", "latents.parquet", "contexts.parquet"):
        assert (live / file).read_bytes() == (stored / file).read_bytes()


def test_features_alone_are_those_made_in_company(swept: Path, lmsae: Lmsae) -> None:
    together = {row: payload(found(row).folder) for row in ("top", "batch")}
    for key in keys(swept, "features"):
        Artifact(swept / "artifacts/features" / key).remove()
    assert lmsae("plan", "--quiet").code == 0
    for row in ("batch", "top"):
        (key,) = (one["key"] for one in json.loads(lmsae_plan(swept)) if one["row"] == row)
        assert lmsae("features", key).code == 0
        assert payload(found(row).folder) == together[row]


def test_a_dictionary_that_cannot_be_read_costs_the_others_nothing(swept: Path, lmsae: Lmsae) -> None:
    features = found("top")
    weights = inputs_of(features)["dictionary"] / "dictionary.json"
    for key in keys(swept, "features"):
        Artifact(swept / "artifacts/features" / key).remove()
    weights.write_text(weights.read_text().replace('"topk"', '"nothing"'))
    assert lmsae("plan", "--quiet").code == 0
    said = lmsae("features")
    assert said.code == 2
    with pytest.raises(MissingArtifact):
        found("top")
    assert found("batch").info.latents == 64


def test_a_row_that_wants_no_features_has_none(made: Path, lmsae: Lmsae) -> None:
    write_config(made, features={"tokens": 0})
    assert lmsae("plan", "--quiet").code == 0
    assert keys(made, "features") == []
    with pytest.raises(MissingArtifact, match=r"features\.tokens is 0"):
        found("top")


def payload(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("features.json", "latents.parquet", "contexts.parquet")}


def lmsae_plan(folder: Path) -> str:
    """The features that each row wants, as JSON, by the sweep's note."""
    (note,) = (folder / "artifacts/sweeps").glob("*.json")
    wants: dict[str, Any] = json.loads(note.read_text())["wants"]
    rows = [(row, one) for row, references in wants.items() for one in references if one.startswith("features/")]
    return json.dumps([{"row": row, "key": reference.partition("/")[2]} for row, reference in rows])


def test_more_tokens_than_a_place_in_the_text_can_name_are_refused() -> None:
    assert FeaturesSection(tokens=2**31 - 1).tokens == 2**31 - 1
    with pytest.raises(ValueError, match="less than 2147483648"):
        FeaturesSection(tokens=2**31)
