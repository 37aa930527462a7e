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
    require_peaks(described)
    assert len({row["kind"] for row in described.contexts()}) == 1 + SHOWN.quantiles


def require_peaks(described: Described) -> None:
    """The peaks are those of dense codes."""
    text, rows = described.text, described.contexts()
    found = [(row["latent"], row["kind"], (row["context"] - 7) * SIZE + row["position"]) for row in rows]
    latents = range(described.codes.shape[-1])
    wanted = [
        (latent, kind, slot)
        for latent in latents
        for kind, slot in peaks_of(described.codes, text.counted, latent, described.shown, text.first_slot)
    ]
    assert found == wanted


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


def test_companions_are_right_where_latents_are_many_and_fire_rarely(tmp_path: Path) -> None:
    """Their kernel then looks at the latents that it has met, and not at all there are."""
    described = describe_in(tmp_path, make_dictionary("topk", d_sae=600), make_text())
    active = [row["active_tokens"] for row in described.latents()]
    assert any(0 < count * 4 <= 600 // 4 for count in active)
    assert any(count * 4 > 600 // 4 for count in active)
    test_every_number_of_a_latent_is_that_of_dense_codes(described)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_contexts": 0, "quantiles": 0},
        {"quantile_samples": 0, "tokens_before": 0, "tokens_after": 0},
        {"top_tokens": 0, "neighbors": 0, "companions": 0, "logits": 0},
        {"top_tokens": 99, "neighbors": 99, "companions": 99, "top_contexts": 99, "position_bins": 99},
        {"histogram_bins": 1, "position_bins": 1},
    ],
)
def test_nothing_of_a_kind_may_be_wanted_or_more_than_there_is(changes: dict[str, int], tmp_path: Path) -> None:
    shown = SHOWN.model_copy(update=changes)
    described = describe_in(tmp_path, make_dictionary("lorsa"), make_text(), shown)
    test_every_number_of_a_latent_is_that_of_dense_codes(described)
    require_peaks(described)
