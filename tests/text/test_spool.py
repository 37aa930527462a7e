"""A spool with a limit keeps what one without would hold up to the limit, in whatever order documents come."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.text import spool
from lmsae.text.documents import shuffle_rank
from lmsae.text.spool import Spool

DTYPE = np.dtype(np.uint16)


@given(
    lengths=st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=30),
    most=st.integers(1, 60),
    masked=st.booleans(),
)
def test_the_first_documents_that_hold_the_limit_are_kept(
    tmp_path_factory: pytest.TempPathFactory, lengths: dict[str, int], most: int, masked: bool
) -> None:
    order = sorted(lengths, key=lambda name: shuffle_rank(0, name))
    before = np.cumsum([0, *(lengths[name] for name in order)])[:-1]
    kept = [name for name, tokens in zip(order, before, strict=True) if tokens < most]
    with Spool(tmp_path_factory.getbasetemp(), DTYPE, 0, masked=masked, most=most) as made:
        refused = set()
        for number, (name, length) in enumerate(lengths.items()):
            if made.wants(name):
                made.append(name, np.full(length, number), characters=number)
            else:
                refused.add(name)
        made.keep_first()
        assert not refused & set(kept)
        assert len(made) == len(kept)
        assert made.tokens == sum(lengths[name] for name in kept)
        numbers = {name: number for number, name in enumerate(lengths)}
        assert made.characters == sum(numbers[name] for name in kept)
        if made.tokens:
            ids, documents, *_ = made.read(0, made.tokens)
            assert ids.tolist() == [numbers[name] for name in kept for _ in range(lengths[name])]
            assert documents.tolist() == [place for place, name in enumerate(kept) for _ in range(lengths[name])]


def test_a_document_that_cannot_be_used_counts_if_it_would_be_kept(tmp_path: Path) -> None:
    first, second, third = sorted("abc", key=lambda name: shuffle_rank(0, name))
    with Spool(tmp_path, DTYPE, 0, most=5) as made:
        made.leave_out(third)
        made.leave_out(first)
        made.append(second, np.zeros(5))
        assert (made.left_out, made.is_full, made.wants(third)) == (1, True, False)


def test_of_one_huge_document_no_token_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(file: int, length: int, offset: int) -> bytes:
        read.append(length)
        return os.pread(file, length, offset)

    with Spool(tmp_path, DTYPE, 0) as made:
        made.append("huge", np.arange(10_000))
        monkeypatch.setattr(spool, "os", type("Counting", (), {"pread": staticmethod(counting)}))
        parts = [made.read(begin, begin + 100)[0] for begin in range(0, 10_000, 100)]
    assert np.concatenate(parts).tolist() == list(range(10_000))
    assert sum(read) == 10_000 * DTYPE.itemsize
