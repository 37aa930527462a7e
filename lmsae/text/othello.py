"""The built-in games: Othello played by choosing uniformly among the legal moves, as Othello-GPT was trained on.

The synthetic data of Li et al. 2023 (arXiv:2210.13382), made anew. A game is a document. Its tokens are the squares in
the order of play, of both players alike. Black begins. A player without a legal move passes, which leaves no token. A
game ends when neither player has a legal move: nearly always with a full board, after 60 moves.

    token id      square, counted row by row from the top left        start
    0             none: pads short games in the paper, never here     27 white   28 black
    1 to 27       0 to 26                                             35 black   36 white
    28 to 33      29 to 34
    34 to 60      37 to 63

A board is two numbers of 64 bits: the discs of the player to move, and those of the other player. Bit n is square n.
All functions here work on arrays of boards.
"""

import hashlib
from collections.abc import Collection, Iterator
from itertools import count

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.documents import TokenDocument
from lmsae.text.kind import COLUMNS_OF_ALL, DigestLookup

CENTER = (27, 28, 35, 36)
SQUARES = np.array([square for square in range(64) if square not in CENTER])
D_VOCAB = 1 + len(SQUARES)
BLOCK = 2048
"""Games that are played side by side. Another number would give other games for a seed."""

Boards = np.ndarray  # uint64, one number a game

BLACK, WHITE = (np.uint64(sum(1 << square for square in squares)) for squares in ((28, 35), (27, 36)))
_ID_OF = np.zeros(64, np.int64)
_ID_OF[SQUARES] = np.arange(1, D_VOCAB)
_NOT_FIRST_COLUMN = np.uint64(0xFEFEFEFEFEFEFEFE)
_NOT_LAST_COLUMN = np.uint64(0x7F7F7F7F7F7F7F7F)
_ANYWHERE = np.uint64(0xFFFFFFFFFFFFFFFF)
# The distance by which a step moves a bit, and the squares that it can reach without leaving the board sideways.
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


class OthelloGames:
    """`builtin:othello`; the seed determines the games."""

    name = "builtin:othello"
    holds_ids = True
    can_change = True
    """Another version of lmsae may play other games."""

    def recognizes(self, name: str) -> bool:
        """True for its own name."""
        return name == self.name

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """The seed, beside those of all texts."""
        return COLUMNS_OF_ALL | {"seed"}

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The digest of the seed's games. Raises SourceError without a number of games."""
        if config.documents is None:
            raise SourceError(f"dataset.name {self.name}: set dataset.documents to the number of games to play.")
        return digest_of_games(config.seed)

    def documents(self, dataset: ResolvedDataset) -> Iterator[TokenDocument]:
        """All games of the seed: they have no end, and `dataset.documents` limits them."""
        return othello_games(dataset.seed)


def othello_games(seed: int) -> Iterator[TokenDocument]:
    """Yield games without end, named by their numbers. Game n of a seed is always the same."""
    for block in count():
        for number, moves in enumerate(play(seed, block), start=block * BLOCK):
            yield TokenDocument(str(number), moves)


def digest_of_games(seed: int) -> str:
    """The identity of a seed's games: sha256 over the moves of the first block."""
    return hashlib.sha256(repr(play(seed, 0)).encode()).hexdigest()


def play(seed: int, block: int) -> list[list[int]]:
    """Play `BLOCK` games; returns the token ids of each."""
    random = np.random.default_rng([seed, block])
    own, other = np.full(BLOCK, BLACK), np.full(BLOCK, WHITE)
    moves = np.zeros((BLOCK, len(SQUARES)), np.int64)
    for ply in range(len(SQUARES)):
        legal = legal_moves(own, other)
        passes = legal == 0
        own, other = np.where(passes, other, own), np.where(passes, own, other)
        legal = np.where(passes, legal_moves(own, other), legal)
        square = _draw_bit(legal, random)
        over = legal == 0
        moves[:, ply] = np.where(over, 0, _ID_OF[square])
        own, other = play_move(own, other, np.where(over, 0, np.uint64(1) << square.astype(np.uint64)))
    lengths = np.count_nonzero(moves, axis=1)
    return [game[:length] for game, length in zip(moves.tolist(), lengths.tolist(), strict=True)]


def legal_moves(own: Boards, other: Boards) -> Boards:
    """The squares where the player may set a disc: empty ones, with discs to turn between them and an own disc."""
    legal = np.zeros_like(own)
    for step, mask in _STEPS:
        legal |= _shift(_run(own, other, step, mask), step, mask)
    return legal & ~(own | other)


def play_move(own: Boards, other: Boards, move: Boards) -> tuple[Boards, Boards]:
    """The board after a move, seen by the opponent. A move is one bit, or none, and then only the players change."""
    turned = np.zeros_like(own)
    for step, mask in _STEPS:
        run = _run(move, other, step, mask)
        turned |= np.where(_shift(run, step, mask) & own, run, 0)
    return other & ~turned, own | move | turned


def _run(start: Boards, along: Boards, step: int, mask: np.uint64) -> Boards:
    """The unbroken line of `along` discs that leads away from `start` in one direction. At most six fit on a board."""
    run = _shift(start, step, mask) & along
    for _ in range(5):
        run |= _shift(run, step, mask) & along
    return run


def _shift(boards: Boards, step: int, mask: np.uint64) -> Boards:
    return (boards << np.uint64(step) if step > 0 else boards >> np.uint64(-step)) & mask


def _draw_bit(boards: Boards, random: np.random.Generator) -> np.ndarray:
    """Draw a set bit of each board, all of them equally likely: its number, or 0 for a board without set bits."""
    bits = np.unpackbits(boards.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    chosen = random.integers(0, np.maximum(np.bitwise_count(boards), 1), dtype=np.int64)
    return np.argmax(np.cumsum(bits, axis=1) > chosen[:, None], axis=1)
