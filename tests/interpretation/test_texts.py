"""The text of tokens, of real tokenizers and of every way to cut characters."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmsae.interpretation.texts import TokenTexts
from lmsae.lm import load_tokenizer, resolve

SAMPLE = "def f(x):  # é, 語, 🙂\n    return x"


def byte_tokenizer() -> Any:
    """GPT-2's kind: bytes as letters of their own alphabet."""
    vocabulary = {"<|endoftext|>": 0}
    vocabulary |= {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def piece_tokenizer() -> Any:
    """Llama's kind: pieces with a mark for spaces, and tokens such as <0xE2> for bytes that no piece has."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581de", "f", "x", "re", "turn", ":"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_pieces_with_marks_for_spaces_and_bytes_read_right() -> None:
    tokenizer = piece_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["\u2581de", "f", "\u2581", "<0xC3>", "<0xA9>", ":", "<0x0A>"])
    table, index = TokenTexts.of_tokenizer(tokenizer).in_contexts(np.array([ids]))
    assert [table[i] for i in index[0]] == [" de", "f", " ", "", "é", ":", "\n"]


def test_special_tokens_are_written_out_among_bytes() -> None:
    tokenizer = byte_tokenizer()
    ids = np.array([[0, *tokenizer(SAMPLE)["input_ids"]]])
    table, index = TokenTexts.of_tokenizer(tokenizer).in_contexts(ids)
    assert "".join(table[i] for i in index[0]) == "<|endoftext|>" + SAMPLE


def test_the_built_in_tokenizer_reads_right() -> None:
    tokenizer = load_tokenizer(resolve("builtin:stdlib-4m"))
    ids = np.array([tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]])
    texts = TokenTexts.of_tokenizer(tokenizer)
    table, index = texts.in_contexts(ids)
    assert "".join(table[i] for i in index[0]) == SAMPLE
    assert len(texts) == len(tokenizer.get_vocab())
    # By itself a part of a character is written as bytes.
    cut = "".join(texts.texts[token] for token in ids[0] if texts.texts[token].startswith("<0x"))
    assert "🙂" in bytes.fromhex(cut.replace("<0x", "").replace(">", "")).decode()


def test_the_token_that_completes_a_character_has_it() -> None:
    texts = TokenTexts([b"a", b"\xc3", b"\xa9", b"\xe8\xaa", b"\x9e!"])
    table, index = texts.in_contexts(np.array([[0, 1, 2, 0, 3, 4], [2, 0, 1, 0, 3, 3]]))
    read = [[table[i] for i in row] for row in index]
    assert read[0] == ["a", "", "é", "a", "", "語!"]
    assert read[1] == ["\ufffd", "a", "\ufffd", "a", "", "\ufffd\ufffd"]
    assert texts.texts == ["a", "<0xC3>", "<0xA9>", "<0xE8><0xAA>", "<0x9E><0x21>"]


@given(st.text(max_size=30), st.data())
def test_text_that_is_cut_anywhere_joins_to_itself(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=20)))
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    table, index = TokenTexts(pieces).in_contexts(np.arange(len(pieces))[None])
    assert "".join(table[i] for i in index[0]) == text


def test_tokens_without_text_are_numbers() -> None:
    texts = TokenTexts.of_numbers(3)
    assert texts.texts == ["0 ", "1 ", "2 "]
