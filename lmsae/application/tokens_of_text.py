"""Tokens of a text that somebody gives: the ids that a model reads, and those of them that count."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lmsae.errors import NotEnoughTokens, SourceError
from lmsae.text.encoding import Vocabulary, tokenize_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def tokenize(
    text: str | Sequence[int] | Tensor, tokenizer: "Tokenizer", *, prepend_bos: bool
) -> Int[Tensor, "1 position"]:
    """The ids of a text, behind BOS if the tokenizer has one. Ids stay as they are.

    `<|endoftext|>` written in a text stays ordinary text, as in training; give ids for special tokens. Raises
    NotEnoughTokens for a text without tokens, SourceError for ids beyond the vocabulary.
    """
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    if isinstance(text, str):
        (ids,) = tokenize_texts(tokenizer, [text])
        if prepend_bos and vocabulary.bos is not None:
            ids = [vocabulary.bos, *ids]
    else:
        ids = [int(token) for token in (text.flatten() if isinstance(text, Tensor) else text)]
    if not ids:
        raise NotEnoughTokens("the text has no tokens: give some text, or ids.")
    if min(ids) < 0:
        raise SourceError(f"there is no token {min(ids)}: ids are counted from 0.")
    return torch.tensor([ids])


def mask_counted(ids: Int[Tensor, "*batch"], tokenizer: "Tokenizer", *, mask_special: bool) -> Bool[Tensor, "*batch"]:
    """True for tokens that count: with `mask_special`, those that are not special."""
    special = Vocabulary.from_tokenizer(tokenizer).special if mask_special else ()
    return torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device), invert=True)


def ends_of_text(tokenizer: "Tokenizer") -> set[int]:
    """The tokens that begin, end or fill up a text."""
    return {*Vocabulary.from_tokenizer(tokenizer).ends}


def token_id(token: str | int, tokenizer: "Tokenizer") -> int:
    """The id of a token that is named by its text or its id. Raises SourceError if a text is not one token."""
    if isinstance(token, int):
        return token
    (ids,) = tokenize_texts(tokenizer, [token])
    if len(ids) != 1:
        parts = ", ".join(repr(tokenizer.decode([one])) for one in ids)
        raise SourceError(f"{token!r} is {len(ids)} tokens ({parts or 'none'}) and not one. Spaces count: try ' word'.")
    return ids[0]
