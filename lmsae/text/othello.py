"""The built-in games: Othello played by choosing uniformly among the legal moves, as Othello-GPT was trained on.

The synthetic data of Li et al. 2023 (arXiv:2210.13382), made anew. A game is a document, its tokens are the squares in
the order of play, both players' alike. Black begins; who has no legal move passes, which leaves no token; a game ends
when neither has one, nearly always with the board full, after 60 moves.

    token id      square, counted row by row from the top left        start
    0             none: pads short games in the paper, never here     27 white   28 black
    1 to 27       0 to 26                                             35 black   36 white
    28 to 33      29 to 34
    34 to 60      37 to 63

A position is two numbers of 64 bits, the discs of the player to move and of the other; bit n is square n. All
functions here work on arrays of positions at once.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

import numpy as np

from lmsae.text.documents import TokenDocument

CENTRE = (27, 28, 35, 36)
SQUARES = np.array([square for square in range(64) if square not in CENTRE])
D_VOCAB = 1 + len(SQUARES)
BLOCK = 2048  # games that are played side by side; part of what a seed means

Boards = np.ndarray  # uint64, one number a game

BLACK, WHITE = (np.uint64(sum(1 << square for square in squares)) for squares in ((28, 35), (27, 36)))
_ID_OF = np.zeros(64, np.int64)
_ID_OF[SQUARES] = np.arange(1, D_VOCAB)
_NOT_FIRST_COLUMN = np.uint64(0xFEFEFEFEFEFEFEFE)
_NOT_LAST_COLUMN = np.uint64(0x7F7F7F7F7F7F7F7F)
_ANYWHERE = np.uint64(0xFFFFFFFFFFFFFFFF)
# By how much a step moves a bit, and where it can have led to without leaving the board sideways.
_STEPS = (
    (1, _NOT_FIRST_COLUMN),
    (9, _NOT_FIRST_COLUMN),
    (-7, _NOT_FIRST_COLUMN),
    (-1, _NOT_LAST_COLUMN),
    (-9, _NOT_LAST_COLUMN),
    (7, _NOT_LAST_COLUMN),
    (8, _ANYWHERE),
    (-8, _ANYWHERE),
)


def othello_games(seed: int) -> Iterator[TokenDocument]:
    """Yield games without end, named by their number; game n of a seed is always the same."""
    for block in count():
        for number, moves in enumerate(play(seed, block), start=block * BLOCK):
            yield TokenDocument(str(number), moves)


def digest_of_games(seed: int) -> str:
    """The identity of a seed's games: sha256 over the moves of the first block."""
    return hashlib.sha256(repr(play(seed, 0)).encode()).hexdigest()


def play(seed: int, block: int) -> list[list[int]]:
    """The token ids of `BLOCK` games."""
    random = np.random.default_rng([seed, block])
    own, other = np.full(BLOCK, BLACK), np.full(BLOCK, WHITE)
    moves = np.zeros((BLOCK, len(SQUARES)), np.int64)
    for ply in range(len(SQUARES)):
        legal = legal_moves(own, other)
        passes = legal == 0
        own, other = np.where(passes, other, own), np.where(passes, own, other)
        legal = np.where(passes, legal_moves(own, other), legal)
        square = _any_bit(legal, random)
        over = legal == 0
        moves[:, ply] = np.where(over, 0, _ID_OF[square])
        own, other = after(own, other, np.where(over, 0, np.uint64(1) << square.astype(np.uint64)))
    lengths = np.count_nonzero(moves, axis=1)
    return [game[:length] for game, length in zip(moves.tolist(), lengths.tolist(), strict=True)]


def legal_moves(own: Boards, other: Boards) -> Boards:
    """The squares where the player to move may set a disc: empty, with discs to turn between it and an own one."""
    legal = np.zeros_like(own)
    for step, mask in _STEPS:
        legal |= _shifted(_run(own, other, step, mask), step, mask)
    return legal & ~(own | other)


def after(own: Boards, other: Boards, move: Boards) -> tuple[Boards, Boards]:
    """The position after a move, one bit a game, as the opponent sees it; without a bit only the players change."""
    turned = np.zeros_like(own)
    for step, mask in _STEPS:
        run = _run(move, other, step, mask)
        turned |= np.where(_shifted(run, step, mask) & own, run, 0)
    return other & ~turned, own | move | turned


def _run(start: Boards, along: Boards, step: int, mask: np.uint64) -> Boards:
    """The unbroken discs of `along` that lead away from `start` in one direction: at most six fit on a board."""
    run = _shifted(start, step, mask) & along
    for _ in range(5):
        run |= _shifted(run, step, mask) & along
    return run


def _shifted(boards: Boards, step: int, mask: np.uint64) -> Boards:
    return (boards << np.uint64(step) if step > 0 else boards >> np.uint64(-step)) & mask


def _any_bit(boards: Boards, random: np.random.Generator) -> np.ndarray:
    """The number of one set bit of each board, all of them equally likely; 0 for a board that has none."""
    bits = np.unpackbits(boards.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    chosen = random.integers(0, np.maximum(np.bitwise_count(boards), 1), dtype=np.int64)
    return np.argmax(np.cumsum(bits, axis=1) > chosen[:, None], axis=1)
