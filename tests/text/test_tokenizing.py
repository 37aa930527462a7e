import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lmsae.errors import SourceError
from lmsae.text import tokenizing
from lmsae.text.documents import AnyDocument, Document, EncodedDocument, TokenDocument, is_held_out, shuffle_rank
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import TextSource, require_context, tokenize
from lmsae.text.tokens import open_tokens

CONFIG = TokenizeConfig(context_size=16, calibration_tokens=64, held_out_fraction=0.3)


def encoder_of(tokenizer: Any, config: TokenizeConfig = CONFIG) -> Encoder:
    return Encoder(tokenizer, Vocabulary.from_tokenizer(tokenizer), config)


def encode(batch: Sequence[AnyDocument], tokenizer: Any) -> list[np.ndarray]:
    """The ids of documents as they are packed, but for separators."""
    bare = Encoder(tokenizer, replace(Vocabulary.from_tokenizer(tokenizer), separator=None), CONFIG)
    encoded = bare.encode(batch)
    assert all(isinstance(document, EncodedDocument) for document in encoded)
    return [document.ids for document in encoded if isinstance(document, EncodedDocument)]


def texts(count: int) -> list[Document]:
    return [Document(f"{n}.txt", f"the text number {n} of the language model, naïve as it is") for n in range(count)]


def test_each_split_decodes_to_its_own_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    documents = texts(60)
    counts = tokenize([TextSource(documents)], encoder_of(tokenizer), tmp_path)
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
    counts = tokenize([TextSource(texts(2000))], encoder_of(tokenizer), tmp_path, told.append)
    ids = tokenizer([document.text for document in texts(2000)])["input_ids"]
    assert sum(told) == counts["tokens"] == sum(map(len, ids)) + len(ids)  # each has its separator
    assert len(told) == 2


def test_a_special_token_written_in_a_text_stays_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert 0 in tokenizer("a<|endoftext|>b")["input_ids"]
    (ids,) = encode([Document("a", "a<|endoftext|>b")], tokenizer)
    assert 0 not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


def test_a_tokenizer_saved_with_truncation_and_padding_still_gives_whole_documents(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = encode(texts(2), tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    again = encode(texts(2), tokenizer)
    assert [ids.tolist() for ids in again] == [ids.tolist() for ids in whole]


def test_a_slow_tokenizer_works_too_and_keeps_special_tokens_as_text() -> None:
    slow = ByT5Tokenizer()
    vocabulary = Vocabulary.from_tokenizer(slow)
    assert (vocabulary.bos, vocabulary.separator, vocabulary.ends) == (1, 1, (0, 1))
    (ids,) = encode([Document("a", "ab</s>c")], slow)
    assert ids.tolist() == [byte + 3 for byte in b"ab</s>c"]


def test_ids_that_were_tokens_already_are_taken_without_their_own_separators(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    batch = [
        TokenDocument("a", [0, 0, 5, 0, 6, 0]),
        Document("b", "the"),
        TokenDocument("c", [0]),
        TokenDocument("d", []),
    ]
    given, text, *empty = encode(batch, tokenizer)
    assert given.tolist() == [5, 0, 6]
    assert tokenizer.decode(text) == "the"
    assert [len(ids) for ids in empty] == [0, 0]


def test_token_documents_pack_like_the_text_they_came_from(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    ready = [TokenDocument(document.name, tokenizer(document.text)["input_ids"]) for document in texts(60)]
    for name, documents in (("text", texts(60)), ("ready", ready)):
        (tmp_path / name).mkdir()
        tokenize([TextSource(documents)], encoder_of(tokenizer), tmp_path / name)
    one, other = open_tokens(tmp_path / "text"), open_tokens(tmp_path / "ready")
    assert (one.train[:] == other.train[:]).all()
    assert (one.held_out_documents[:] == other.held_out_documents[:]).all()


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SourceError, match=r"a: token id 50,000 is beyond .* vocabulary of 294"):
        tokenize([TextSource([TokenDocument("a", [5, 50_000])])], encoder_of(tokenizer), tmp_path)
    with pytest.raises(SourceError, match="is beyond"):
        tokenize([TextSource([TokenDocument("a", [5, 2**64])])], encoder_of(tokenizer), tmp_path)


def test_no_documents_are_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SourceError, match="no text"):
        tokenize([TextSource([])], encoder_of(tokenizer), tmp_path)


def test_a_stream_is_read_no_further_than_its_limits_need(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    read: list[str] = []

    def endless():
        for number in range(10**9):
            read.append(str(number))
            yield Document(str(number), "the text of the language model")

    config = CONFIG.model_copy(update={"tokens": 3000, "held_out_tokens": 1000})
    counts = tokenize([TextSource(endless(), stop_when_full=True)], encoder_of(tokenizer, config), tmp_path)
    assert (counts["train_tokens"], counts["held_out_tokens"]) == (2992, 992)
    assert len(read) == 1024
    assert counts["documents"] < 1024  # as many as hold the tokens, the first in shuffled order


@pytest.mark.parametrize("packing", ["stream", "document"])
@pytest.mark.parametrize("pool", [5, 64, 10_000])
def test_limits_take_the_head_of_the_shuffled_text_and_leave_the_rest_untokenized(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, pool: int, packing: str
) -> None:
    monkeypatch.setattr(tokenizing, "POOL_DOCUMENTS", pool)
    monkeypatch.setattr(tokenizing, "SMALLEST_BATCH", 100)
    documents, told = [*texts(2000), *(Document(f"short {n}", "the") for n in range(2000))], list[int]()
    config = CONFIG.model_copy(update={"packing": packing, "held_out_tokens": 10**6})
    few = config.model_copy(update={"tokens": 500, "held_out_tokens": 300})
    for name, one in (("all", config), ("few", few)):
        (tmp_path / name).mkdir()
        told.clear()
        tokenize([TextSource(documents)], encoder_of(tokenizer, one), tmp_path / name, told.append)
    whole, limited = open_tokens(tmp_path / "all"), open_tokens(tmp_path / "few")
    for part in ("train", "held_out", "train_documents", "held_out_documents"):
        wanted = {"train": 4 + 31, "held_out": 18}[part.removesuffix("_documents")]
        assert getattr(limited, part)[:].tolist() == getattr(whole, part)[:wanted].tolist()
    assert sum(told) < whole.counts["tokens"] / (4 if pool > 5 else 2)
    assert limited.counts["documents"] < 100
    assert (limited.counts["left_out"] > 0) == (packing == "document")
    seen = {name: len(np.unique(getattr(limited, f"{name}_documents")[:])) for name in ("train", "held_out")}
    assert limited.counts["documents"] == sum(seen.values())


def test_how_many_documents_come_at_a_time_changes_no_count(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = CONFIG.model_copy(update={"tokens": 500, "held_out_tokens": 300, "packing": "document"}), []
    for pool in (3, 1000):
        monkeypatch.setattr(tokenizing, "POOL_DOCUMENTS", pool)
        (tmp_path / str(pool)).mkdir()
        documents = [*texts(300), *(Document(f"short {n}", "the") for n in range(300))]
        found.append(tokenize([TextSource(documents)], encoder_of(tokenizer, config), tmp_path / str(pool)))
    assert found[0] == found[1]


def test_without_bos_contexts_are_the_bare_stream(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    bare = CONFIG.model_copy(update={"prepend_bos": False})
    tokenize([TextSource(texts(60))], encoder_of(tokenizer, bare), tmp_path)
    found = open_tokens(tmp_path)
    separators = np.flatnonzero(found.train[:].ravel() == 0)
    changes = np.flatnonzero(np.diff(found.train_documents[:].ravel(), prepend=-1))
    assert separators.tolist() == changes.tolist()


def test_bos_is_needed_only_where_contexts_begin_with_it(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer))
    assert vocabulary.separator is None
    with pytest.raises(SourceError, match=r"tokenize\.prepend_bos"):
        vocabulary.require_bos()


def test_contexts_longer_than_the_model_reads_are_refused() -> None:
    require_context(256, 256)
    require_context(10**6, None)
    with pytest.raises(SourceError, match=r"tokenize\.context_size 257.*at most 256"):
        require_context(257, 256)


BARE = TokenizeConfig(
    context_size=4, prepend_bos=False, calibration_tokens=8, held_out_fraction=0.3, packing="document"
)


def test_ids_need_no_tokenizer(tmp_path: Path) -> None:
    games = [TokenDocument(str(n), [0, n, n, n]) for n in range(60)]
    tokenize([TextSource(games)], Encoder(None, Vocabulary(61), BARE), tmp_path)
    found = open_tokens(tmp_path)
    assert (found.bos_token_id, found.special_token_ids, found.d_vocab) == (None, (), 61)
    assert found.usable("train").all()
    wanted = sorted((g for g in games if not is_held_out(g.name, 0.3)), key=lambda game: shuffle_rank(0, game.name))
    assert found.train[:].tolist() == [game.ids for game in wanted]


def test_without_a_tokenizer_there_is_no_bos_to_begin_contexts_with(tmp_path: Path) -> None:
    config = BARE.model_copy(update={"prepend_bos": True})
    with pytest.raises(SourceError, match=r"no tokenizer. Set tokenize\.prepend_bos to false"):
        tokenize([TextSource([])], Encoder(None, Vocabulary(61), config), tmp_path)


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_packed_by_document_each_context_is_the_beginning_of_one(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, prepend_bos: bool
) -> None:
    config = CONFIG.model_copy(update={"packing": "document", "prepend_bos": prepend_bos})
    documents = [*texts(60), *(Document(f"short {n}", "the") for n in range(7))]
    counts = tokenize([TextSource(documents)], encoder_of(tokenizer, config), tmp_path)
    found = open_tokens(tmp_path)
    assert (counts["documents"], counts["left_out"]) == (60, 7)
    assert counts["train_contexts"] + counts["held_out_contexts"] == 60
    assert found.held_out_documents[:].tolist() == [[n] * 16 for n in range(counts["held_out_contexts"])]
    wanted = sorted((d for d in texts(60) if not is_held_out(d.name, 0.3)), key=lambda d: shuffle_rank(0, d.name))
    for document, context in zip(wanted, found.train[:].tolist(), strict=True):
        bos = [tokenizer.bos_token_id] * prepend_bos
        assert context == [*bos, *tokenizer(document.text)["input_ids"]][:16]


def test_when_every_document_is_too_short_the_error_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = CONFIG.model_copy(update={"packing": "document"})
    with pytest.raises(SourceError, match=r"left out: its 1 tokens do not fill a context"):
        tokenize([TextSource([Document("a", "t")])], encoder_of(tokenizer, config), tmp_path)


def test_special_tokens_may_be_used_where_the_user_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = CONFIG.model_copy(update={"mask_special": False})
    tokenize([TextSource(texts(60))], encoder_of(tokenizer, config), tmp_path)
    assert open_tokens(tmp_path).usable("train").all()


def test_all_tokens_marked_special_are_masked_but_unknown_words_are_text(tokenizer: PreTrainedTokenizerFast) -> None:
    marked = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer),
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        extra_special_tokens=["<|user|>"],
    )
    user, unknown = (marked.get_vocab()[token] for token in ("<|user|>", "<unk>"))
    vocabulary = Vocabulary.from_tokenizer(marked)
    assert vocabulary.special == (0, user)
    assert unknown not in vocabulary.special
    assert vocabulary.ends == (0,)


@pytest.mark.parametrize(
    ("marks", "special"),
    [
        ({"pad_token": "<unk>"}, (1, 2)),  # as Llama 2 is often padded
        ({"pad_token": "!"}, (1, 2)),
        ({"pad_token": "<pad>"}, (1, 2, 6)),
        ({"pad_token": "</s>"}, (1, 2)),
        ({"bos_token": "<unk>", "eos_token": "<unk>", "pad_token": "<unk>"}, (0,)),  # GPT-2's only mark
    ],
)
def test_a_padding_token_that_is_text_is_not_masked(
    tmp_path: Path, marks: dict[str, str], special: tuple[int, ...]
) -> None:
    ids = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "a", "b", "!", "<pad>"])}
    backend = Tokenizer(models.WordLevel(vocab=ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | marks
    words = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    vocabulary = Vocabulary.from_tokenizer(words)
    assert vocabulary.special == special
    assert words.pad_token_id in vocabulary.ends
    documents = [Document(str(n), "a b ! unknown words !") for n in range(100)]
    tokenize([TextSource(documents)], encoder_of(words), tmp_path)
    found = open_tokens(tmp_path)
    is_text = np.isin(found.train[:], [ids["a"], ids["b"], ids["!"], *([0] if 0 not in special else [])])
    assert is_text.any()
    assert (found.usable("train") == is_text).all()
