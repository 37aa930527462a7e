"""Chats: conversations as a model's chat template writes them, and masks of the tokens that messages say.

    template    <|user|>\\n{content}<|end|>\\n<|assistant|>\\n{content}<|end|>\\n
    rendered    <|user|>\\nHow are you?<|end|>\\n<|assistant|>\\nFine.<|end|>\\n
    content     ..........^^^^^^^^^^^^.........................^^^^^........
    assistant   .............................................. ^^^^^........

A template does not tell where it puts contents, and a content may hold the template's own words. So each conversation
is rendered twice, the second time with a mark in place of each content. The text between the marks is the template's,
and it shows where the contents stand in the real text. A token belongs to a content if any of its characters does.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.documents import ChatDocument, EncodedDocument, Omission
from lmsae.text.packing import ChatTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_MARK = re.compile("\ue000([0-9]+)\ue001")
"""Characters of the private use area: no template changes them, and hardly any text holds them."""


def require_template(tokenizer: "Tokenizer") -> None:
    """Raise SourceError unless the tokenizer has a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise SourceError(
            "dataset.messages_column: the tokenizer has no chat template, as those of base models have not. Name an "
            "instruct model that has one in tokenize.tokenizer, or set dataset.column to a column of plain text."
        )


def require_offsets(tokenizer: "Tokenizer") -> None:
    """Raise SourceError unless the tokenizer tells the characters that a token comes from."""
    if not tokenizer.is_fast:
        raise SourceError(
            "tokenize.chat_tokens: this tokenizer is a slow one (it has no tokenizer.json) and does not tell which "
            "characters a token comes from, so contents cannot be told from the template. Set it to all."
        )


def encode_chats(
    documents: Sequence[ChatDocument], tokenizer: "Tokenizer", which: ChatTokens
) -> list[EncodedDocument | Omission]:
    """The ids of each conversation, exactly as the template renders it, and the mask of the wanted tokens.

    A conversation that the template refuses is left out: its roles do not take turns, or the template does not know
    them. With `all` there is no mask: all tokens are wanted. Raises SourceError if the tokenizer has no template or no
    offsets, and where a content cannot be found in the rendered text.
    """
    require_template(tokenizer)
    if which != "all":
        require_offsets(tokenizer)
    texts = [_render(tokenizer, document.messages) for document in documents]
    accepted = [text for text in texts if isinstance(text, str)]
    if not accepted:
        return [text for text in texts if isinstance(text, Omission)]
    encoded = tokenizer(
        accepted,
        add_special_tokens=False,  # the template writes its own
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=which != "all",
        verbose=False,
    )
    ids = iter(encoded.data["input_ids"])
    offsets = iter(encoded.data["offset_mapping"] if which != "all" else [])
    found: list[EncodedDocument | Omission] = []
    for document, text in zip(documents, texts, strict=True):
        if isinstance(text, Omission):
            found.append(text)
        else:
            mask = None if which == "all" else _mask(tokenizer, document, text, next(offsets), which)
            found.append(EncodedDocument(np.array(next(ids), np.int64), mask))
    return found


def content_spans(tokenizer: "Tokenizer", document: ChatDocument, text: str) -> list[tuple[str, int, int]]:
    """The span of each content in the rendered `text`: its role, its first character, and the one behind its last.

    Templates may strip contents, leave some out or move them. Raises SourceError for a content that cannot be found.
    """
    messages = document.messages
    marked = [
        {"role": message["role"], "content": f"\ue000{number}\ue001" if message["content"] else ""}
        for number, message in enumerate(messages)
    ]
    skeleton = _render(tokenizer, marked)
    if not isinstance(skeleton, str):
        raise _lost_content(document)
    first, *rest = (piece or "" for piece in _MARK.split(skeleton))
    numbers, afters = [int(number) for number in rest[::2]], rest[1::2]
    if not text.startswith(first):
        raise _lost_content(document)
    spans, position = [], len(first)
    for number, after in zip(numbers, afters, strict=True):
        end = _find_end(messages[number]["content"], text, position, after, is_last=len(spans) == len(numbers) - 1)
        if end is None:
            raise _lost_content(document)
        spans.append((messages[number]["role"], position, end))
        position = end + len(after)
    return spans


def _find_end(content: str, text: str, begin: int, after: str, *, is_last: bool) -> int | None:
    """The end of a content that begins at `begin` and that the template's `after` follows, or None."""
    for form in (content, content.strip()):
        end = begin + len(form)
        if (
            text.startswith(form, begin)
            and text.startswith(after, end)
            and (not is_last or end + len(after) == len(text))
        ):
            return end
    # The template changed the content, such as one that drops earlier thoughts. It ends where the template goes on.
    if is_last:
        end = len(text) - len(after)
        return end if end >= begin and text.endswith(after) else None
    end = text.find(after, begin) if after else -1
    return None if end < 0 else end


def _mask(
    tokenizer: "Tokenizer",
    document: ChatDocument,
    text: str,
    offsets: Sequence[tuple[int, int]],
    which: ChatTokens,
) -> np.ndarray:
    """The mask of the tokens that hold a character of the wanted contents, bool (tokens,)."""
    wanted = np.zeros(len(text) + 1, np.int64)
    for role, begin, end in content_spans(tokenizer, document, text):
        if which == "content" or role == "assistant":
            wanted[begin + 1 : end + 1] = 1
    before = np.cumsum(wanted)  # wanted characters before each position
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    return before[ends] > before[begins]


def _render(tokenizer: "Tokenizer", messages: Sequence[Mapping[str, str]]) -> str | Omission:
    """The text that the chat template makes of a conversation, or the reason why it refuses it."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False))
    except TemplateError as error:
        return Omission(f"its chat template says {str(error)!r}")


def _lost_content(document: ChatDocument) -> SourceError:
    """The error for a content that cannot be found in the rendered text."""
    return SourceError(
        f"document {document.name}: the chat template changes what the messages say, so their words cannot be told "
        "from its own. Set tokenize.chat_tokens to all."
    )
