"""The tables of the stage `features`, against dense codes and plain loops in float64."""

from pathlib import Path

import pytest

from tests.interpretation.brute_force import numbers_of, peaks_of
from tests.interpretation.conftest import SHOWN, SIZE, Described, describe_in, make_dictionary, make_text

NAMES = [
    "topk",
    "batchtopk",
    "standard",
    "abstopk",
    "transcoder",
    "skip_transcoder",
    "crosscoder",
    "clt",
    "lorsa",
    "molt",
]


@pytest.fixture(params=NAMES)
def described(request: pytest.FixtureRequest, tmp_path: Path) -> Described:
    return describe_in(tmp_path, make_dictionary(request.param), make_text())


def test_every_number_of_a_latent_is_that_of_dense_codes(described: Described) -> None:
    text, rows = described.text, described.latents()
    assert len(rows) == described.codes.shape[-1]
    for latent, row in enumerate(rows):
        wanted = numbers_of(described.codes, text.ids, text.counted, latent, described.shown)
        tokens = [(one["token"], one["active"], one["rate"], one["mean"]) for one in row["top_tokens"]]
        companions = [(one["latent"], one["phi"]) for one in row["companions"]]
        found = {name: row[name] for name in wanted} | {"top_tokens": tokens, "companions": companions}
        assert found == wanted
        assert [one["text"] for one in row["top_tokens"]] == [f" w{token}" for token, *_ in tokens]


def test_the_pieces_are_around_the_right_peaks(described: Described) -> None:
    text, rows = described.text, described.contexts()
    found = [(row["latent"], row["kind"], (row["context"] - 7) * SIZE + row["position"]) for row in rows]
    latents = range(described.codes.shape[-1])
    wanted = [
        (latent, kind, slot)
        for latent in latents
        for kind, slot in peaks_of(described.codes, text.counted, latent, described.shown, text.first_slot)
    ]
    assert found == wanted
    assert len({kind for _, kind, _ in found}) == 1 + SHOWN.quantiles


def test_a_piece_shows_the_text_and_the_codes_around_its_peak(described: Described) -> None:
    text, counted = described.text, described.text.counted
    for row in described.contexts():
        context, position = row["context"] - 7, row["position"]
        here = slice(max(position - 4, 0), min(position + 3, SIZE))
        codes = described.codes[context, here, row["latent"]].tolist()
        wanted = [code if counts else None for code, counts in zip(codes, counted[context, here], strict=True)]
        assert row["start"] == here.start
        assert row["tokens"] == text.ids[context, here].tolist()
        assert "".join(row["texts"]) == "".join(f" w{token}" for token in text.ids[context, here])
        assert row["activations"] == wanted
        assert row["activation"] == wanted[position - here.start]
