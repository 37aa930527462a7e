"""Chats against templates of the kinds that models have: what is masked is exactly the template's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lmsae.errors import SourceError
from lmsae.text.chat import content_spans, encode_chats
from lmsae.text.documents import ChatDocument, Document, EncodedDocument, Omission
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.packing import ChatTokens, TokenizeConfig
from lmsae.text.tokenizing import TextSource, tokenize
from lmsae.text.tokens import open_tokens

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
# Begins with BOS, strips contents, knows no system role, and asks roles to take turns: Llama 2's and Gemma's habits.
TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# Puts the system's words behind the user's name, and drops thoughts: DeepSeek's and Qwen's habits.
THOUGHTS = (
    "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}"
    "{% endif %}({{ m.role }}) {{ c }}\n{% endfor %}"
)
CHAT = [
    {"role": "user", "content": "the model reads"},
    {"role": "assistant", "content": "assistant\n the text "},
    {"role": "user", "content": "naïve"},
    {"role": "assistant", "content": "the dictionary"},
]


@pytest.fixture
def with_template(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], PreTrainedTokenizerFast]:
    def make(template: str) -> PreTrainedTokenizerFast:
        end = "<|endoftext|>"
        return PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer),
            bos_token=end,
            eos_token=end,
            extra_special_tokens=["<|im_start|>", "<|im_end|>"],
            chat_template=template,
        )

    return make


def whole_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """What the library itself makes of a conversation."""
    return tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]


def wanted_texts(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], which: ChatTokens) -> list[str]:
    """The text of each run of tokens that may be used."""
    (encoded,) = encode_chats([ChatDocument("chat", messages)], tokenizer, which)
    assert isinstance(encoded, EncodedDocument)
    assert encoded.mask is not None
    edges = np.flatnonzero(np.diff(encoded.mask.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [str(tokenizer.decode(encoded.ids[begin:end])) for begin, end in edges]


def test_ids_are_those_that_the_template_gives(with_template: Callable) -> None:
    tokenizer = with_template(CHATML)
    for which in ("content", "assistant", "all"):
        (encoded,) = encode_chats([ChatDocument("chat", CHAT)], tokenizer, which)
        assert isinstance(encoded, EncodedDocument)
        assert encoded.ids.tolist() == whole_ids(tokenizer, CHAT)
        assert (encoded.mask is None) == (which == "all")


def test_contents_may_be_used_and_the_template_may_not(with_template: Callable) -> None:
    tokenizer = with_template(CHATML)
    assert wanted_texts(tokenizer, CHAT, "content") == [message["content"] for message in CHAT]
    assert wanted_texts(tokenizer, CHAT, "assistant") == [CHAT[1]["content"], CHAT[3]["content"]]


def test_a_content_that_repeats_the_templates_words_is_found_where_it_stands(with_template: Callable) -> None:
    tokenizer = with_template(CHATML)
    messages = [{"role": "user", "content": "user"}, {"role": "assistant", "content": "<|im_end|>\n"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = content_spans(tokenizer, ChatDocument("chat", messages), text)
    assert [(role, text[begin:end]) for role, begin, end in spans] == [("user", "user"), ("assistant", "<|im_end|>\n")]
    assert text[: spans[0][1]] == "<|im_start|>user\n"


def test_a_template_may_strip_contents_and_a_token_across_the_border_counts_as_content(with_template: Callable) -> None:
    tokenizer = with_template(TURNS)
    stripped = [message["content"].strip() for message in CHAT]
    found = wanted_texts(tokenizer, CHAT, "content")
    assert [text.strip() for text in found] == stripped
    # " the" is one token, of the template's space and the content's word
    assert found[0] == " the model reads"


def test_a_template_may_change_contents_and_may_not_hide_where_they_end(with_template: Callable) -> None:
    tokenizer = with_template(THOUGHTS)
    messages = [CHAT[0], {"role": "assistant", "content": "hmm</think>the text"}, CHAT[2]]
    found = [text.strip() for text in wanted_texts(tokenizer, messages, "content")]
    assert found == ["the model reads", "the text", "naïve"]


def test_an_empty_content_is_no_content(with_template: Callable) -> None:
    tokenizer = with_template(CHATML)
    messages = [{"role": "system", "content": ""}, CHAT[0]]
    assert wanted_texts(tokenizer, messages, "content") == ["the model reads"]


def test_contents_that_cannot_be_found_are_an_error(with_template: Callable) -> None:
    shouting = with_template("{% for m in messages %}{{ m.content | upper }}{{ m.content }}{% endfor %}")
    with pytest.raises(SourceError, match=r"document chat: .*Set tokenize\.chat_tokens to all"):
        encode_chats([ChatDocument("chat", CHAT[:2])], shouting, "content")


def test_a_chat_that_the_template_refuses_is_left_out_with_its_reason(with_template: Callable) -> None:
    refused = ChatDocument("two users", [CHAT[0], CHAT[2]])
    left_out, kept = encode_chats([refused, ChatDocument("chat", CHAT)], with_template(TURNS), "content")
    assert isinstance(kept, EncodedDocument)
    assert left_out == Omission("its chat template says 'roles must take turns'")


def test_a_tokenizer_without_a_template_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SourceError, match=r"no chat template.*tokenize\.tokenizer"):
        encode_chats([ChatDocument("chat", CHAT)], tokenizer, "all")


def test_a_slow_tokenizer_has_no_masks_but_may_use_all_tokens() -> None:
    slow = ByT5Tokenizer()
    slow.chat_template = CHATML
    (encoded,) = encode_chats([ChatDocument("chat", CHAT)], slow, "all")
    assert isinstance(encoded, EncodedDocument)
    assert encoded.ids.tolist() == whole_ids(slow, CHAT)
    with pytest.raises(SourceError, match=r"slow one.*Set it to all"):
        encode_chats([ChatDocument("chat", CHAT)], slow, "content")


def test_masks_reach_the_artifact_beside_text_that_is_all_used(tmp_path: Path, with_template: Callable) -> None:
    tokenizer = with_template(CHATML)
    config = TokenizeConfig(context_size=16, calibration_tokens=16, held_out_fraction=0.3)
    chats = [ChatDocument(str(n), [{"role": "user", "content": f"the text {n}"}, CHAT[3]]) for n in range(80)]
    texts = [Document(str(n), "the language model reads the text and the dictionary") for n in range(80)]
    sources = [TextSource(chats, "chats", 0.5), TextSource(texts, "texts", 0.5)]
    encoder = Encoder(
        tokenizer, Vocabulary.from_tokenizer(tokenizer), config.model_copy(update={"chat_tokens": "assistant"})
    )
    tokenize(sources, encoder, tmp_path, masked=True)
    found = open_tokens(tmp_path)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    for split in ("train", "held_out"):
        ids, usable = getattr(found, split)[:], found.usable(split)
        is_chat = np.arange(len(ids)) % 2 == (0 if (ids[0] == start).any() else 1)
        assert (ids[is_chat] == start).any(axis=1).all()
        assert not (ids[~is_chat] == start).any()
        assert (usable[~is_chat] == ~np.isin(ids[~is_chat], found.special_token_ids)).all()
        said = str(tokenizer.decode(ids[is_chat][usable[is_chat]]))
        assert set(said.replace("the dictionary", "|").strip("|")) <= set("the dictionary|")
        assert "text" not in said
        assert said.count("the dictionary") > len(ids[is_chat]) // 4
        assert (found.usable(split, slice(1, 3)) == usable[1:3]).all()


def test_packed_by_document_a_chat_does_not_begin_with_two_bos(tmp_path: Path, with_template: Callable) -> None:
    tokenizer = with_template(TURNS)
    config = TokenizeConfig(context_size=8, calibration_tokens=8, held_out_fraction=0.3, packing="document")
    chats = [ChatDocument(str(n), CHAT) for n in range(40)]
    tokenize(
        [TextSource(chats)], Encoder(tokenizer, Vocabulary.from_tokenizer(tokenizer), config), tmp_path, masked=True
    )
    found = open_tokens(tmp_path)
    wanted = whole_ids(tokenizer, CHAT)[:8]
    assert (found.train[:] == wanted).all()
    assert wanted[0] == tokenizer.bos_token_id != wanted[1]
