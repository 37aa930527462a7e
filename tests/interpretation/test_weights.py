"""The columns that come from weights, against float64 from the weights themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmsae.interpretation.logits import LogitWay, find_way
from lmsae.interpretation.schema import Location
from tests.interpretation.conftest import SHOWN, VOCABULARY, WIDTH, describe_in, make_dictionary, make_text

NAMES = ["topk", "transcoder", "skip_transcoder", "crosscoder", "clt", "lorsa", "molt"]


def written(dictionary: Any) -> np.ndarray:
    """What each latent writes at each hook point, (latents, hook points, WIDTH), by the names of the weights."""
    weights = {name: value.double().numpy() for name, value in dictionary.geometry.state_dict().items()}
    if dictionary.config.geometry.kind == "clt":
        rows = np.zeros((32, 2, WIDTH))
        rows[:16] = weights["W_dec.0"].reshape(16, 2, WIDTH)
        rows[16:, 1] = weights["W_dec.1"]
        return rows
    return weights["W_dec"].reshape(16, -1, WIDTH)


def read(dictionary: Any) -> np.ndarray:
    """The encoder column of each latent at each hook point read, (latents, hook points, WIDTH)."""
    encoder = dictionary.geometry.state_dict()["W_enc"].double().numpy()
    if dictionary.config.geometry.kind == "clt":
        columns = np.zeros((32, 2, WIDTH))
        columns[:16, 0], columns[16:, 1] = encoder[0].T, encoder[1].T
        return columns
    return encoder.T.reshape(16, -1, WIDTH)


@pytest.mark.parametrize("name", NAMES)
def test_norms_and_their_shares_are_those_of_the_weights(name: str, tmp_path: Path) -> None:
    dictionary = make_dictionary(name)
    rows = describe_in(tmp_path, dictionary, make_text()).latents()
    sides = {"encoder_norm": ("read_norms", read(dictionary))}
    if name != "molt":
        sides["decoder_norm"] = ("write_norms", written(dictionary))
    for norm, (shares, weights) in sides.items():
        squares = (weights**2).sum(2)
        np.testing.assert_allclose([row[norm] for row in rows], np.sqrt(squares.sum(1)), rtol=1e-6)
        np.testing.assert_allclose([row[shares] for row in rows], squares / squares.sum(1, keepdims=True), rtol=1e-6)


def test_a_molt_has_the_norm_of_its_transforms_and_no_directions(tmp_path: Path) -> None:
    dictionary = make_dictionary("molt")
    rows = describe_in(tmp_path, dictionary, make_text()).latents()
    weights = {name: value.double() for name, value in dictionary.geometry.state_dict().items()}
    norms = [(U.mT @ V).norm() for g in (0, 1) for U, V in zip(weights[f"U.{g}"], weights[f"V.{g}"], strict=True)]
    np.testing.assert_allclose([row["decoder_norm"] for row in rows], norms, rtol=1e-6)
    assert all(row["neighbors"] is None and row["promoted"] is None for row in rows)
    assert all(row["write_norms"] == [1.0] for row in rows)


@pytest.mark.parametrize("name", ["topk", "crosscoder", "clt", "lorsa"])
def test_neighbors_have_the_largest_cosines(name: str, tmp_path: Path) -> None:
    dictionary = make_dictionary(name)
    with torch.no_grad():
        dict(dictionary.geometry.named_parameters())["W_dec.0" if name == "clt" else "W_dec"][3] = 0
    rows = describe_in(tmp_path, dictionary, make_text()).latents()
    weights = written(dictionary).reshape(len(rows), -1)
    norms = np.linalg.norm(weights, axis=1)
    with np.errstate(invalid="ignore"):
        cosines = (weights @ weights.T) / norms[:, None] / norms
    for latent, row in enumerate(rows):
        found = [one["latent"] for one in row["neighbors"]]
        if latent == 3:
            assert (found, row["write_norms"], row["decoder_norm"]) == ([], None, 0)
            continue
        others = [one for one in np.argsort(-cosines[latent]) if one not in (latent, 3)]
        assert found == others[: SHOWN.neighbors]
        np.testing.assert_allclose([one["cosine"] for one in row["neighbors"]], cosines[latent, found], atol=1e-6)


@pytest.mark.parametrize("normalization", ["none", "dataset", "whiten"])
def test_logits_are_what_is_written_in_raw_units_times_the_rows(normalization: str, tmp_path: Path) -> None:
    dictionary = make_dictionary("topk", normalize_activations=normalization)
    draw = torch.Generator().manual_seed(4)
    if normalization == "dataset":
        dictionary.write.load_state_dict({"scale": torch.full((WIDTH,), 2.5)})
    elif normalization == "whiten":
        state = dictionary.write.state_dict()
        dictionary.write.load_state_dict({**state, "coloring_0": torch.randn(WIDTH, WIDTH, generator=draw)})
    matrix, unembedding = torch.randn(WIDTH, 9, generator=draw), torch.randn(VOCABULARY, 9, generator=draw)
    way = LogitWay(unembedding, [(slice(0, WIDTH), matrix)], "as in the test")
    described = describe_in(tmp_path, dictionary, make_text(), way=way)
    rows = dictionary.write.restore(dictionary.geometry.state_dict()["W_dec"], None).double()
    rows -= dictionary.write.restore(torch.zeros(1, WIDTH), None).double()
    wanted = (rows @ matrix.double() @ unembedding.double().T).numpy()
    assert described.info.logits == "as in the test"
    for latent, row in enumerate(described.latents()):
        for name, order in (("promoted", np.argsort(-wanted[latent])), ("suppressed", np.argsort(wanted[latent]))):
            assert [one["token"] for one in row[name]] == order[: SHOWN.logits].tolist()
            assert [one["text"] for one in row[name]] == [f" w{token}" for token in order[: SHOWN.logits]]
            np.testing.assert_allclose([one["logit"] for one in row[name]], wanted[latent, order[:3]], rtol=1e-4)


class _Model:
    """The parts of a language model that a way to logits is made of: a GPT-NeoX of width 4 without attention biases."""

    config: dict[str, Any] = {"model_type": "gpt_neox"}  # noqa: RUF012

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        shapes = {
            "gpt_neox.final_layer_norm.weight": (4,),
            "lm_head.weight": (7, 4),
            "gpt_neox.layers.1.attention.dense.weight": (4, 4),
        }
        self.weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def way_of(*hook_points: str) -> LogitWay | str:
    locations = [Location(model=0, hook_point=name) for name in hook_points]
    return find_way(locations, [4] * len(locations), ["tiny"], [_Model.config], lambda number: _Model(), 5)  # pyright: ignore[reportArgumentType, reportReturnType]


def test_places_that_are_added_are_summed_and_of_the_stream_the_last_counts() -> None:
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    summed = way_of("blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.ln1.hook_normalized")
    assert isinstance(summed, LogitWay)
    dense = _Model().weights["gpt_neox.layers.1.attention.dense.weight"]
    torch.testing.assert_close(summed.to_stream(rows), rows[:, :4] + rows[:, 4:8] @ dense.T)
    assert len(summed.rows) == 5
    last = way_of("blocks.1.hook_resid_post", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")
    assert isinstance(last, LogitWay)
    torch.testing.assert_close(last.to_stream(rows), rows[:, :4])


def test_a_place_that_does_not_reach_the_logits_says_why() -> None:
    assert way_of("blocks.1.ln1.hook_normalized") == (
        "blocks.1.ln1.hook_normalized is read by the layer's attention or MLP alone"
    )
