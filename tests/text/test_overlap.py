"""The overlap of the splits is that of comparing windows one by one."""

from pathlib import Path

import numpy as np
import pytest

from lmsae.text import overlap
from lmsae.text.documents import TokenDocument
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.overlap import held_out_overlap
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import TextSource, tokenize
from lmsae.text.tokens import TokenSet, open_tokens


def packed(folder: Path, documents: list[TokenDocument], size: int, *, bos: bool) -> TokenSet:
    config = TokenizeConfig(context_size=size, prepend_bos=bos, calibration_tokens=size, held_out_fraction=0.3)
    tokenize([TextSource(documents)], Encoder(None, Vocabulary(500, bos=0), config), folder)
    return open_tokens(folder)


def windows(ids: np.ndarray, size: int) -> list[tuple[int, ...]]:
    return [
        tuple(context[begin : begin + size]) for context in ids.tolist() for begin in range(len(context) - size + 1)
    ]


@pytest.mark.parametrize(("size", "bos"), [(40, True), (40, False), (12, True), (50, True)])
def test_the_share_is_that_of_windows_compared_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, bos: bool
) -> None:
    monkeypatch.setattr(overlap, "BLOCK_TOKENS", 100)
    draw = np.random.default_rng(size)
    passages = [draw.integers(1, 500, 60).tolist() for _ in range(8)]  # each stands in several documents
    documents = [
        TokenDocument(str(n), [*passages[n % 8], *draw.integers(1, 500, draw.integers(40, 90)).tolist()])
        for n in range(40)
    ]
    found = packed(tmp_path, documents, size, bos=bos)
    width = min(32, size - bos)
    train = {*windows(found.train[:][:, int(bos) :], width)}
    held_out = windows(found.held_out[:][:, int(bos) :], width)
    wanted = sum(window in train for window in held_out) / len(held_out)
    assert 0 < wanted < 1
    assert held_out_overlap(found, skip=int(bos)) == pytest.approx(wanted)


def test_splits_of_one_text_overlap_wholly_and_of_others_not_at_all(tmp_path: Path) -> None:
    for name, ids in (
        ("same", [[7] * 50] * 30),
        ("other", np.random.default_rng(0).integers(1, 500, (30, 50)).tolist()),
    ):
        (tmp_path / name).mkdir()
        documents = [TokenDocument(str(n), document) for n, document in enumerate(ids)]
        share = held_out_overlap(packed(tmp_path / name, documents, 40, bos=False))
        assert share == (1 if name == "same" else 0)
