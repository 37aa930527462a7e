"""Chats: conversations as a model's chat template writes them, and which of the tokens are whose words.

    template    <|user|>\\n{content}<|end|>\\n<|assistant|>\\n{content}<|end|>\\n
    rendered    <|user|>\\nHow are you?<|end|>\\n<|assistant|>\\nFine.<|end|>\\n
    content     ..........^^^^^^^^^^^^.........................^^^^^........
    assistant   .............................................. ^^^^^........

Templates do not say where they put contents, and a content may hold the template's own words. So each conversation is
rendered twice, once with a mark in place of each content: what stands between the marks is the template's, and by it
the contents are found in the real text. A token belongs to a content if any of its characters does.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmsae.errors import SourceError
from lmsae.text.documents import ChatDocument, Encoded, LeftOut
from lmsae.text.packing import ChatTokens

_MARK = re.compile("\ue000([0-9]+)\ue001")  # of the private use area: no template changes it, hardly a text holds it


def require_template(tokenizer: Any) -> None:
    """Raise SourceError unless the tokenizer has a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise SourceError(
            "dataset.messages_column: the tokenizer has no chat template, as those of base models have not. Name an "
            "instruct model that has one in tokenize.tokenizer, or set dataset.column to a column of plain text."
        )


def require_offsets(tokenizer: Any) -> None:
    """Raise SourceError unless the tokenizer tells which characters a token comes from."""
    if not tokenizer.is_fast:
        raise SourceError(
            "tokenize.chat_tokens: this tokenizer is a slow one (it has no tokenizer.json) and does not tell which "
            "characters a token comes from, so contents cannot be told from the template. Set it to all."
        )


def encode_chats(documents: Sequence[ChatDocument], tokenizer: Any, which: ChatTokens) -> list[Encoded | LeftOut]:
    """The ids of each conversation, exactly as the template renders it, and the mask of the tokens wanted.

    Conversations that the template refuses (roles that do not take turns, or that it does not know) are left out.
    Without a mask (`all`) all tokens are wanted. Raises SourceError if the tokenizer has no template or no offsets,
    and where contents cannot be found in what the template made of them.
    """
    require_template(tokenizer)
    if which != "all":
        require_offsets(tokenizer)
    texts = [_rendered(tokenizer, document.messages) for document in documents]
    accepted = [text for text in texts if isinstance(text, str)]
    if not accepted:
        return [text for text in texts if isinstance(text, LeftOut)]
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
    ids = iter(encoded["input_ids"])
    offsets = iter(encoded["offset_mapping"] if which != "all" else [])
    found: list[Encoded | LeftOut] = []
    for document, text in zip(documents, texts, strict=True):
        if isinstance(text, LeftOut):
            found.append(text)
        else:
            mask = None if which == "all" else _mask(tokenizer, document, text, next(offsets), which)
            found.append(Encoded(np.array(next(ids), np.int64), mask))
    return found


def content_spans(tokenizer: Any, document: ChatDocument, text: str) -> list[tuple[str, int, int]]:
    """Where each content stands in the rendered `text`: its role, its first character, and the one behind its last.

    Templates may strip contents, leave some out or move them. Raises SourceError where a content is not to be found.
    """
    messages = document.messages
    marked = [
        {"role": message["role"], "content": f"\ue000{number}\ue001" if message["content"] else ""}
        for number, message in enumerate(messages)
    ]
    skeleton = _rendered(tokenizer, marked)
    if not isinstance(skeleton, str):
        raise _not_found(document)
    first, *rest = (piece or "" for piece in _MARK.split(skeleton))
    numbers, afters = [int(number) for number in rest[::2]], rest[1::2]
    if not text.startswith(first):
        raise _not_found(document)
    spans, position = [], len(first)
    for number, after in zip(numbers, afters, strict=True):
        end = _end_of(messages[number]["content"], text, position, after, is_last=len(spans) == len(numbers) - 1)
        if end is None:
            raise _not_found(document)
        spans.append((messages[number]["role"], position, end))
        position = end + len(after)
    return spans


def _end_of(content: str, text: str, begin: int, after: str, *, is_last: bool) -> int | None:
    """Where a content ends that begins at `begin` and that the template's `after` follows, or None."""
    for form in (content, content.strip()):
        end = begin + len(form)
        if (
            text.startswith(form, begin)
            and text.startswith(after, end)
            and (not is_last or end + len(after) == len(text))
        ):
            return end
    # The template changed the content, as those do that drop earlier thoughts: it ends where the template goes on.
    if is_last:
        end = len(text) - len(after)
        return end if end >= begin and text.endswith(after) else None
    end = text.find(after, begin) if after else -1
    return None if end < 0 else end


def _mask(
    tokenizer: Any, document: ChatDocument, text: str, offsets: Sequence[tuple[int, int]], which: ChatTokens
) -> np.ndarray:
    """Which tokens hold a character of the wanted contents, bool (tokens,)."""
    wanted = np.zeros(len(text) + 1, np.int64)
    for role, begin, end in content_spans(tokenizer, document, text):
        if which == "content" or role == "assistant":
            wanted[begin + 1 : end + 1] = 1
    before = np.cumsum(wanted)  # wanted characters before each place
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    return before[ends] > before[begins]


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str | LeftOut:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False))
    except TemplateError as error:
        return LeftOut(f"its chat template says {str(error)!r}")


def _not_found(document: ChatDocument) -> SourceError:
    return SourceError(
        f"document {document.name}: the chat template changes what the messages say, so their words cannot be told "
        "from its own. Set tokenize.chat_tokens to all."
    )
