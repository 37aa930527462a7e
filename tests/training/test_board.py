"""The board: values go to whoever has its key, and come from nobody else."""

import pickle
from pathlib import Path

import pytest

from lmsae.errors import TrainingError
from lmsae.training.sharded.board import Board


@pytest.fixture
def board() -> Board:
    return Board()


def test_a_value_is_read_by_whoever_has_the_port_and_the_key(board: Board) -> None:
    other = Board(board.port, board.key)
    assert not other.has("place")
    board.leave("place", Path("here"))
    assert other.has("place")
    assert other.read("place") == Path("here")


def test_two_boards_have_two_keys(board: Board) -> None:
    assert len(board.key) == 64
    assert Board().key != board.key


@pytest.mark.parametrize("kind", ["unsigned", "other key", "changed", "other name"])
def test_what_was_not_left_so_with_the_key_is_not_unpickled(
    kind: str, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.leave("order", 1)
    signed = board.store.get("order")
    if kind == "unsigned":
        board.store.set("order", pickle.dumps(2))
    elif kind == "other key":
        Board(board.port, "0" * 64).leave("order", 2)
    elif kind == "changed":
        board.store.set("order", signed[:-2] + b"\0.")
    else:
        board.store.set("fact", signed)
    monkeypatch.setattr(pickle, "loads", lambda written: pytest.fail("it was unpickled"))
    with pytest.raises(TrainingError, match=f"port {board.port} is of another program"):
        board.read("fact" if kind == "other name" else "order")
