"""Firings come back as they went in, whatever the batches, the runs and the blocks; the same bytes come of them."""

from pathlib import Path

import numpy as np
import pytest

from lmsae.interpretation import describing, firings
from lmsae.interpretation.firings import Firings
from lmsae.interpretation.schema import CONTEXTS, INFO, LATENTS
from tests.interpretation.conftest import CONTEXTS as ALL
from tests.interpretation.conftest import describe_in, make_dictionary, make_text

FILES = (INFO, LATENTS, CONTEXTS)


@pytest.mark.parametrize("name", ["topk", "standard", "abstopk", "lorsa"])
def test_batches_runs_and_blocks_change_no_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, text = make_dictionary(name), make_text()
    whole = describe_in(tmp_path / "whole", dictionary, text)
    monkeypatch.setattr(firings, "RUN_FIRINGS", 50)
    monkeypatch.setattr(firings, "BLOCK_FIRINGS", 30)
    monkeypatch.setattr(firings, "CELL_LATENTS", 4)
    cut = describe_in(tmp_path / "cut", dictionary, text, batches=(1, 7, 13, 2, ALL - 23))
    for file in FILES:
        assert (cut.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_firings_are_read_back_by_latent_in_the_order_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firings, "RUN_FIRINGS", 64)
    draw = np.random.default_rng(0)
    codes = draw.random((300, 70)).astype(np.float32) * (draw.random((300, 70)) > 0.9)
    with Firings(tmp_path, 70) as written:
        for start in range(0, 300, 17):
            some = codes[start : start + 17]
            tokens, latents = np.nonzero(some)
            written.append((some != 0).sum(1), latents, tokens + start, some[tokens, latents])
        blocks = list(written.blocks(0, 70))
    read = np.zeros_like(codes)
    for block in blocks:
        for latent in range(len(block)):
            here = slice(block.starts[latent], block.starts[latent + 1])
            assert (np.diff(block.slots[here]) > 0).all()
            read[block.slots[here], block.first + latent] = block.values[here]
    assert (read == codes).all()
    assert (written.active == (codes != 0).sum(0)).all()


@pytest.mark.parametrize(
    ("most_pairs", "most_firings", "stride"), [(10**9, 10**9, 1), (2000, 10**9, 3), (10**9, 300, 4)]
)
def test_rows_are_of_every_nth_context_where_there_are_too_many(
    tmp_path: Path, most_pairs: int, most_firings: int, stride: int
) -> None:
    codes = np.random.default_rng(1).random((20, 12, 9)) > 0.5
    counted = np.ones((20, 12), bool)
    counted[:, 0] = False
    codes &= counted[..., None]
    with Firings(tmp_path, 9) as written:
        slots, latents = np.nonzero(codes.reshape(-1, 9))
        written.append(codes.reshape(-1, 9).sum(1), latents, slots, np.ones(len(slots)))
        rows = written.rows(counted, most_pairs, most_firings)
    l0 = codes.sum(2)
    assert rows.stride == stride == max(-(-int((l0**2).sum()) // most_pairs), -(-int(l0.sum()) // most_firings), 1)
    assert rows.tokens == counted[::stride].sum()
    for slot in range(240):
        wanted = np.flatnonzero(codes[slot // 12, slot % 12]) if (slot // 12) % stride == 0 else []
        assert rows.latents[rows.starts[slot] : rows.starts[slot + 1]].tolist() == list(wanted)


def test_companions_of_every_nth_context_are_those_of_that_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.interpretation.brute_force import companions

    monkeypatch.setattr(describing, "MOST_PAIRS", 1500)
    described = describe_in(tmp_path, make_dictionary("topk"), make_text())
    stride = int(described.info.companions.split()[1][:-2])
    assert stride > 1
    codes, counted = described.codes[::stride], described.text.counted[::stride]
    for latent, row in enumerate(described.latents()):
        found = [(one["latent"], one["phi"]) for one in row["companions"]]
        assert found == companions(codes, counted, latent, described.shown.companions)
