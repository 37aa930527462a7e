"""Rows of tables as documents: text, token ids or conversations. Nothing in a cell counts as an empty document.

All raise SourceError for a value of another kind; `where` says in the message where the value stands.
"""

from collections.abc import Sequence
from typing import Any

from lmsae.errors import SourceError
from lmsae.text.documents import ChatDocument, Document, TokenDocument


def text_document(name: str, value: Any, where: str) -> Document:
    """A document of text, which must be encodable."""
    return Document(name, _text(value, where))


def token_document(name: str, value: Any, where: str) -> TokenDocument:
    """A document of token ids, which must be non-negative integers."""
    ids = _list(value, "token ids", where)
    if not all(type(i) is int and i >= 0 for i in ids):
        raise SourceError(f"{where}: expected a list of token ids, found {_shown(value)}.")
    return TokenDocument(name, ids)


def chat_document(name: str, value: Any, where: str) -> ChatDocument:
    """A conversation: of each message the role and the content; what else it has (such as tool calls) is not read."""
    messages = []
    for message in _list(value, "messages", where):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise SourceError(
                f"{where}: expected messages such as {{'role': 'user', 'content': 'Hello'}}, found {_shown(message)}."
            )
        messages.append({"role": message["role"], "content": _text(message["content"], where)})
    return ChatDocument(name, messages)


def _list(value: Any, what: str, where: str) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SourceError(f"{where}: expected a list of {what}, found {_shown(value)}.")
    return value


def _text(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise SourceError(
            f"{where}: expected text, found {_shown(value)}. Is it dataset.tokens_column or dataset.messages_column "
            "you want?"
        )
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: half a surrogate pair at character {error.start:,}, which is no text.") from None
    return value or ""


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
