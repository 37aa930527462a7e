"""The text of tokens: of each by itself, and of each in its context, where several may share a character.

A tokenizer of bytes cuts characters into pieces. In a context, the token that completes a character has all of it, and
those before it have none, so that texts joined read as the text. What is no UTF-8 becomes U+FFFD.
"""

import codecs
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


class TokenTexts:
    """The texts of a vocabulary's tokens, each by itself."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces` are the bytes of every token, by id."""
        self._pieces = list(pieces)
        decoded = [_decode(piece) for piece in pieces]
        # An empty piece may stand within a character.
        self._whole = np.array([bool(text) for text in decoded], bool)
        self.texts = [
            "".join(f"<0x{byte:02X}>" for byte in piece) if text is None else text
            for piece, text in zip(pieces, decoded, strict=True)
        ]
        """A token's own text; one that is no whole characters is written as bytes, such as <0xE2>."""

    @classmethod
    def of_tokenizer(cls, tokenizer: "Tokenizer") -> "TokenTexts":
        """The texts of a `transformers` tokenizer's tokens."""
        return cls(_pieces_of(tokenizer))

    @classmethod
    def of_numbers(cls, count: int) -> "TokenTexts":
        """Tokens that stand for no text are written as their ids."""
        return cls([f"{number} ".encode() for number in range(count)])

    def __len__(self) -> int:
        return len(self.texts)

    def in_contexts(self, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        """A list of texts, and for each token of `ids` (contexts, context_size) the index of its text, int32."""
        table, known = list(self.texts), {}
        index = ids.astype(np.int32)
        cut = ~self._whole[ids]
        for context in np.flatnonzero(cut.any(1)):
            for begin, end in _runs(cut[context]):
                for position, text in enumerate(self._join(ids[context, begin:end]), begin):
                    if text not in known:
                        known[text] = len(table)
                        table.append(text)
                    index[context, position] = known[text]
        return table, index

    def _join(self, ids: np.ndarray) -> list[str]:
        """The text of each of some tokens that follow each other."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces = [self._pieces[token] for token in ids]
        return [decoder.decode(piece, final=i == len(pieces) - 1) for i, piece in enumerate(pieces)]


def _decode(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches in which a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _pieces_of(tokenizer: "Tokenizer") -> list[bytes]:
    """The bytes of every token by id; of an id without a token, its number in brackets."""
    count = max(tokenizer.get_vocab().values()) + 1
    kinds = _decoder_kinds(tokenizer)
    added = {token: str(written) for token, written in tokenizer.added_tokens_decoder.items()}
    written = {token: name for name, token in tokenizer.get_vocab().items()}
    pieces = []
    for token in range(count):
        if token in added or token not in written:
            pieces.append(added.get(token, f"<{token}>").encode())
        elif "ByteLevel" in kinds:
            pieces.append(_bytes_of(written[token]))
        elif {"Metaspace", "ByteFallback"} & kinds:
            byte = _BYTE_TOKEN.fullmatch(written[token])
            pieces.append(bytes([int(byte[1], 16)]) if byte else written[token].replace(_SPACE, " ").encode())
        else:
            pieces.append(str(tokenizer.decode([token])).encode())
    return pieces


def _decoder_kinds(tokenizer: "Tokenizer") -> set[str]:
    """The kinds of the steps by which a tokenizer turns tokens into text; none of one that does not tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    if decoder is None:
        return set()
    described = json.loads(decoder.__getstate__())
    return {step["type"] for step in (described, *described.get("decoders", ()))}


def _byte_alphabet() -> dict[str, int]:
    """The letters that tokenizers of bytes (GPT-2's) write bytes with: printable ones stand for themselves, the others
    are counted from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _bytes_of(written: str) -> bytes:
    if all(letter in _ALPHABET for letter in written):
        return bytes(_ALPHABET[letter] for letter in written)
    return written.encode()
