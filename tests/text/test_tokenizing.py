from pathlib import Path

import numpy as np
import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lmsae.errors import SourceError
from lmsae.text.documents import Document, TokenDocument, is_held_out, shuffle_rank
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import Vocabulary, encode, require_context, tokenize
from lmsae.text.tokens import open_tokens

CONFIG = TokenizeConfig(context_size=16, aside_tokens=64, held_out_fraction=0.3)


def texts(count: int) -> list[Document]:
    return [Document(f"{n}.txt", f"the text number {n} of the language model, naïve as it is") for n in range(count)]


def test_each_split_decodes_to_its_own_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    documents = texts(60)
    counts = tokenize(documents, tokenizer, CONFIG, tmp_path)
    found = open_tokens(tmp_path)
    for split, side in (("train", False), ("held_out", True)):
        wanted = [document for document in documents if is_held_out(document.name, 0.3) is side]
        wanted.sort(key=lambda document: shuffle_rank(0, document.name))
        text = "".join("<|endoftext|>" + document.text for document in wanted)
        ids = getattr(found, split)[:]
        decoded = str(tokenizer.decode(ids[:, 1:].ravel()))
        assert text.startswith(decoded.rstrip("\ufffd"))
        assert len(text) - len(decoded) < 100
        assert (ids[:, 0] == tokenizer.bos_token_id).all()
        assert getattr(found, f"{split}_documents")[:].max() < len(wanted)
    assert counts == found.counts
    assert counts["documents"] == 60
    assert counts["characters"] == sum(len(document.text) for document in documents)
    assert counts["train_contexts"] == len(found.train)
    assert found.special_token_ids == (0,)


def test_progress_adds_up_to_the_tokens_of_the_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    told: list[int] = []
    counts = tokenize(texts(2000), tokenizer, CONFIG, tmp_path, told.append)
    assert (
        sum(told) == counts["tokens"] == sum(len(ids) for ids in tokenizer([d.text for d in texts(2000)])["input_ids"])
    )
    assert len(told) == 2


def test_a_special_token_written_in_a_text_stays_text(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary.of(tokenizer, prepend_bos=True)
    assert 0 in tokenizer("a<|endoftext|>b")["input_ids"]
    (ids,) = encode([Document("a", "a<|endoftext|>b")], tokenizer, vocabulary)
    assert 0 not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


def test_a_tokenizer_saved_with_truncation_and_padding_still_gives_whole_documents(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = encode(texts(2), tokenizer, Vocabulary.of(tokenizer, prepend_bos=True))
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    again = encode(texts(2), tokenizer, Vocabulary.of(tokenizer, prepend_bos=True))
    assert [ids.tolist() for ids in again] == [ids.tolist() for ids in whole]


def test_a_slow_tokenizer_works_too_and_keeps_special_tokens_as_text() -> None:
    slow = ByT5Tokenizer()
    vocabulary = Vocabulary.of(slow, prepend_bos=True)
    assert (vocabulary.bos, vocabulary.separator, vocabulary.special) == (1, 1, (0, 1))
    (ids,) = encode([Document("a", "ab</s>c")], slow, vocabulary)
    assert ids.tolist() == [byte + 3 for byte in b"ab</s>c"]


def test_ids_that_were_tokens_already_are_taken_without_their_own_separators(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    vocabulary = Vocabulary.of(tokenizer, prepend_bos=True)
    batch = [
        TokenDocument("a", [0, 0, 5, 0, 6, 0]),
        Document("b", "the"),
        TokenDocument("c", [0]),
        TokenDocument("d", []),
    ]
    given, text, *empty = encode(batch, tokenizer, vocabulary)
    assert given.tolist() == [5, 0, 6]
    assert tokenizer.decode(text) == "the"
    assert [len(ids) for ids in empty] == [0, 0]


def test_token_documents_pack_like_the_text_they_came_from(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    ready = [TokenDocument(document.name, tokenizer(document.text)["input_ids"]) for document in texts(60)]
    for name, documents in (("text", texts(60)), ("ready", ready)):
        (tmp_path / name).mkdir()
        tokenize(documents, tokenizer, CONFIG, tmp_path / name)
    one, other = open_tokens(tmp_path / "text"), open_tokens(tmp_path / "ready")
    assert (one.train[:] == other.train[:]).all()
    assert (one.held_out_documents[:] == other.held_out_documents[:]).all()


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SourceError, match=r"a: token id 50,000 is beyond .* vocabulary of 294"):
        tokenize([TokenDocument("a", [5, 50_000])], tokenizer, CONFIG, tmp_path)
    with pytest.raises(SourceError, match="is beyond"):
        tokenize([TokenDocument("a", [5, 2**64])], tokenizer, CONFIG, tmp_path)


def test_no_documents_are_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SourceError, match="no text"):
        tokenize([], tokenizer, CONFIG, tmp_path)


def test_a_stream_is_read_no_further_than_its_limits_need(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    read: list[str] = []

    def endless():
        for number in range(10**9):
            read.append(str(number))
            yield Document(str(number), "the text of the language model")

    config = CONFIG.model_copy(update={"tokens": 3000, "held_out_tokens": 1000})
    counts = tokenize(endless(), tokenizer, config, tmp_path, stop_when_full=True)
    assert (counts["train_tokens"], counts["held_out_tokens"]) == (2992, 992)
    assert len(read) == counts["documents"] == 1024


def test_without_bos_contexts_are_the_bare_stream(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenize(texts(60), tokenizer, CONFIG.model_copy(update={"prepend_bos": False}), tmp_path)
    found = open_tokens(tmp_path)
    separators = np.flatnonzero(found.train[:].ravel() == 0)
    changes = np.flatnonzero(np.diff(found.train_documents[:].ravel(), prepend=-1))
    assert separators.tolist() == changes.tolist()


def test_bos_is_needed_only_where_contexts_begin_with_it(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert Vocabulary.of(bare, prepend_bos=False).separator is None
    with pytest.raises(SourceError, match=r"tokenize\.prepend_bos"):
        Vocabulary.of(bare, prepend_bos=True)


def test_contexts_longer_than_the_model_reads_are_refused() -> None:
    require_context(256, 256)
    require_context(10**6, None)
    with pytest.raises(SourceError, match=r"tokenize\.context_size 257.*at most 256"):
        require_context(257, 256)
