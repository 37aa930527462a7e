"""Rows of tables as documents: of text, of token ids, or conversations. A row without a value is an empty document.

All functions raise SourceError for a value of another kind; in its message `where` names the row.
"""

from collections.abc import Sequence

from lmsae.errors import SourceError
from lmsae.text.dataset import DatasetConfig
from lmsae.text.documents import AnyDocument, ChatDocument, Document, TokenDocument


def document_of(dataset: DatasetConfig, name: str, value: object) -> AnyDocument:
    """The value of a row as a document of the kind that the dataset's column holds."""
    where = f"dataset.name {dataset.name!r}, row {name}, column {dataset.values_column!r}"
    if dataset.tokens_column:
        return _token_document(name, value, where)
    if dataset.messages_column:
        return _chat_document(name, value, where)
    return Document(name, _require_text(value, where))


def _token_document(name: str, value: object, where: str) -> TokenDocument:
    """A document of token ids, which must be integers and not negative."""
    given = _require_list(value, "token ids", where)
    ids = [i for i in given if type(i) is int and i >= 0]
    if len(ids) < len(given):
        raise SourceError(f"{where}: expected a list of token ids, found {_show(value)}.")
    return TokenDocument(name, ids)


def _chat_document(name: str, value: object, where: str) -> ChatDocument:
    """A conversation. Only the role and the content of each message are read, and not its tool calls, for example."""
    messages = []
    for message in _require_list(value, "messages", where):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise SourceError(
                f"{where}: expected messages such as {{'role': 'user', 'content': 'Hello'}}, found {_show(message)}."
            )
        messages.append({"role": message["role"], "content": _require_text(message["content"], where)})
    return ChatDocument(name, messages)


def _require_list(value: object, what: str, where: str) -> Sequence[object]:
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SourceError(f"{where}: expected a list of {what}, found {_show(value)}.")
    return value


def _require_text(value: object, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise SourceError(
            f"{where}: expected text, found {_show(value)}. Is it dataset.tokens_column or dataset.messages_column "
            "you want?"
        )
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: half a surrogate pair at character {error.start:,}, which is no text.") from None
    return value or ""


def _show(value: object) -> str:
    """A value for an error message, cut short if it is long."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
