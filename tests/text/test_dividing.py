"""Long text files are divided into documents of which none is lost, in whatever blocks they are read."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.errors import NotEnoughTokens, SourceError
from lmsae.text import dividing
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.dividing import divide
from lmsae.text.documents import Document
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.packing import TokenizeConfig
from lmsae.text.pinning import documents, resolve
from lmsae.text.tokenizing import TextSource, tokenize


def resolved(path: Path, **columns: str) -> ResolvedDataset:
    found = resolve(DatasetConfig.model_validate({"name": str(path), **columns}))
    assert isinstance(found, ResolvedDataset)
    return found


def divided(text: str, at: str) -> list[str]:
    return list(divide(io.StringIO(text), at))


@given(
    text=st.text("ab|-\n", max_size=60),
    separator=st.sampled_from(["|", "--", "|-|", "abab|-"]),
    block=st.integers(1, 9),
)
def test_a_separator_divides_as_python_does(text: str, separator: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dividing, "BLOCK", block)
        assert divided(text, separator) == text.split(separator)


@given(text=st.text("ab \n", max_size=80), most=st.integers(2, 30), block=st.integers(1, 9))
def test_pieces_have_at_most_so_many_characters_and_are_the_text(text: str, most: int, block: int) -> None:
    whole = divided(text, f"{most} characters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dividing, "BLOCK", block)
        pieces = divided(text, f"{most} characters")
    assert "".join(pieces) == text
    assert all(most // 2 <= len(piece) <= most for piece in pieces[:-1])
    assert pieces == whole


def test_pieces_end_with_a_line_or_else_a_word() -> None:
    assert divided("one two\nthree four five six", "12 characters") == ["one two\n", "three four ", "five six"]


def test_blank_lines_divide_however_many_there_are() -> None:
    assert divided("a\nb\n\n \n\t\nc\n", "blank_lines") == ["a\nb\n", "c\n"]
    assert divided("a\n\nb\n\n\n\nc", r"\n\n") == ["a", "b", "", "c"]


def test_a_text_file_is_divided_into_documents_named_by_number(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes("\ufeffone<|end|>two\r\n<|end|> <|end|>three".encode())
    found = list(documents(resolved(tmp_path / "long.txt", divide_at="<|end|>")))
    assert found == [
        Document("long.txt:0", "one"),
        Document("long.txt:1", "two\n"),
        Document("long.txt:3", "three"),
    ]
    assert [one.name for one in documents(resolved(tmp_path))] == ["long.txt"]


@pytest.mark.parametrize("written", ["1 characters", "blank_line", ""])
def test_what_divides_nothing_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match=r"2 characters or more|did you mean blank_lines|leave the cell empty"):
        DatasetConfig(divide_at=written)


def test_only_text_files_are_divided(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(SourceError, match=r"such a text has no dataset\.divide_at"):
        resolved(tmp_path / "a.jsonl", divide_at="blank_lines")


def test_a_text_of_one_document_is_told_how_to_divide_it_and_that_helps(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/long.txt").write_text("a b c d e f g h\n\n" * 400)
    config = TokenizeConfig(context_size=4, prepend_bos=False, calibration_tokens=8, held_out_fraction=0.3)

    class Letters(Encoder):
        def _tokenize(self, texts: list[str]) -> list[list[int]]:
            return [[ord(letter) - ord("a") for letter in text.split()] for text in texts]

    encoder = Letters(None, Vocabulary(8), config)
    with pytest.raises(NotEnoughTokens, match=r"1 documents in all; dataset\.divide_at divides long text files"):
        tokenize([TextSource(documents(resolved(tmp_path / "text")))], encoder, tmp_path)
    parts = documents(resolved(tmp_path / "text", divide_at="blank_lines"))
    counts = tokenize([TextSource(parts)], encoder, tmp_path)
    assert counts["documents"] == 400
    assert np.isclose(counts["held_out_contexts"] / 800, 0.3, atol=0.08)
