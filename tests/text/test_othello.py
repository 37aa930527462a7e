"""The games against a second, slow implementation of the rules: a board of letters, walked square by square."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from lmsae.text import othello
from lmsae.text.othello import (
    BLACK,
    BLOCK,
    CENTER,
    D_VOCAB,
    SQUARES,
    WHITE,
    legal_moves,
    othello_games,
    play,
    play_move,
)

START = "...........................WB......BW..........................."
DIRECTIONS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def turned(board: str, player: str, square: int) -> list[int]:
    """The squares whose discs a move turns; none if it is not legal."""
    if board[square] != ".":
        return []
    found = []
    for down, right in DIRECTIONS:
        row, column, line = square // 8 + down, square % 8 + right, []
        while 0 <= row < 8 and 0 <= column < 8 and board[8 * row + column] not in (".", player):
            line.append(8 * row + column)
            row, column = row + down, column + right
        if 0 <= row < 8 and 0 <= column < 8 and board[8 * row + column] == player:
            found += line
    return found


def moves_of(board: str, player: str) -> list[int]:
    return [square for square in range(64) if turned(board, player, square)]


def moved(board: str, player: str, square: int) -> str:
    changed = {square, *turned(board, player, square)}
    return "".join(player if place in changed else disc for place, disc in enumerate(board))


def replay(squares: list[int]) -> list[list[int]]:
    """The legal moves before each move of a game, and after the last; a player without one passes."""
    board, player, offered = START, "B", []
    for square in [*squares, None]:
        if not moves_of(board, player):
            player = "BW"[player == "B"]
        offered.append(moves_of(board, player))
        if square is not None:
            board, player = moved(board, player, square), "BW"[player == "B"]
    return offered


def test_every_move_is_legal_and_every_game_is_played_to_its_end() -> None:
    # 60 of the usual games, and of a whole block those that end before the board is full or nearly so
    games = play(0, 0)
    chosen = [*games[:60], *(game for game in games if len(game) < 60)][:90]
    assert min(map(len, chosen)) < 60
    for game in chosen:
        squares = [int(SQUARES[token - 1]) for token in game]
        *offered, last = replay(squares)
        assert all(square in legal for square, legal in zip(squares, offered, strict=True))
        assert last == []


def test_the_positions_after_five_moves_are_as_many_as_is_known() -> None:
    own, other, counts = np.array([BLACK]), np.array([WHITE]), []
    for _ in range(5):
        legal = legal_moves(own, other)
        bits = np.unpackbits(legal.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        position, square = np.nonzero(bits)
        own, other = play_move(own[position], other[position], np.uint64(1) << square.astype(np.uint64))
        counts.append(len(square))
    assert counts == [4, 12, 56, 244, 1396]


def test_moves_are_chosen_uniformly_among_the_legal_ones() -> None:
    games = [game for block in range(4) for game in play(0, block)]
    offered = replay([])[0]
    first = Counter(int(SQUARES[game[0] - 1]) for game in games)
    assert sorted(first) == offered == [19, 26, 37, 44]
    deviation = (len(games) * 0.25 * 0.75) ** 0.5
    assert all(abs(count - len(games) / 4) < 4 * deviation for count in first.values())
    # Whatever the first move, three replies are legal.
    second = Counter((game[0], game[1]) for game in games)
    assert len(second) == 12
    assert all(abs(count - len(games) / 12) < 4 * (len(games) / 12) ** 0.5 for count in second.values())


def test_ids_are_those_of_othello_gpt() -> None:
    # The vocabulary is sorted: first the padding (-100), then the squares without the four that are taken at the start.
    wanted = {square: number for number, square in enumerate(sorted({-100, *range(64)} - set(CENTER)))}
    assert [wanted[int(square)] for square in SQUARES] == list(range(1, 61))
    assert D_VOCAB == len(wanted) == 61
    assert [wanted[square] for square in (0, 26, 29, 34, 37, 63)] == [1, 27, 28, 33, 34, 60]
    assert {token for game in play(0, 0) for token in game} == set(range(1, 61))


def test_nearly_all_games_fill_the_board_and_no_square_is_taken_twice() -> None:
    games = play(0, 0)
    assert len(games) == BLOCK
    assert all(len(set(game)) == len(game) for game in games)
    assert sum(len(game) == 60 for game in games) > 0.98 * BLOCK


def test_a_game_is_a_function_of_its_number_and_the_seed() -> None:
    ahead = list(islice(othello_games(3), BLOCK + 2))
    again = list(islice(othello_games(3), 5))
    assert again == ahead[:5]
    assert [game.name for game in ahead[-2:]] == [str(BLOCK), str(BLOCK + 1)]
    assert [list(game.ids) for game in ahead[BLOCK:]] == play(3, 1)[:2]
    others = [list(next(othello_games(seed)).ids) for seed in range(4)]
    assert all(one != other for one, other in pairwise(others))
    assert len({othello.digest_of_games(seed) for seed in (0, 1)}) == 2


@pytest.mark.parametrize("count", [1, 2, 64])
def test_draw_bit_finds_each_bit_of_a_board_and_no_other(count: int) -> None:
    random = np.random.default_rng(0)
    squares = random.permutation(64)[:count]
    board = np.full(5000, sum(1 << int(square) for square in squares), np.uint64)
    assert set(othello._draw_bit(board, random).tolist()) == set(squares.tolist())
