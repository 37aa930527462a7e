"""Tokens of a text that somebody gives: the ids that a model reads, and those of them that count."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lmsae.errors import NotEnoughTokens, SourceError
from lmsae.text.encoding import tokenize_texts

if TYPE_CHECKING:
    from lmsae.application.loaded import LoadedDictionary
    from lmsae.lm.protocol import LanguageModel


def tokenize(sae: "LoadedDictionary", text: str | Sequence[int] | Tensor) -> Int[Tensor, "1 position"]:
    """The ids of a text, behind BOS if training's contexts begin with it. Ids stay as they are.

    `<|endoftext|>` written in a text stays ordinary text, as in training; give ids for special tokens. Raises
    NotEnoughTokens for a text without tokens, SourceError for ids below 0 or a text of a model without a tokenizer.
    """
    if isinstance(text, str):
        (ids,) = tokenize_texts(sae.tokenizer, [text])
        if sae.home.packing.prepend_bos and sae.vocabulary.bos is not None:
            ids = [sae.vocabulary.bos, *ids]
    else:
        ids = [int(token) for token in (text.flatten() if isinstance(text, Tensor) else text)]
    if not ids:
        raise NotEnoughTokens("the text has no tokens: give some text, or ids.")
    if min(ids) < 0:
        raise SourceError(f"there is no token {min(ids)}: ids are counted from 0.")
    return torch.tensor([ids])


def mask_counted(sae: "LoadedDictionary", ids: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """True for tokens that count: all but special ones, if training left those out."""
    special = sae.vocabulary.special if sae.home.packing.mask_special else ()
    return torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device), invert=True)


def require_room(model: "LanguageModel", tokens: int) -> None:
    """Raise NotEnoughTokens if a text has more tokens than a model reads at once."""
    if model.max_context is not None and tokens > model.max_context:
        raise NotEnoughTokens(
            f"the text has {tokens:,} tokens, and the model reads at most {model.max_context:,}: shorten it."
        )


def token_id(sae: "LoadedDictionary", token: str | int) -> int:
    """The id of a token that is named by its text or its id. Raises SourceError if a text is not one token."""
    if isinstance(token, int):
        return token
    (ids,) = tokenize_texts(sae.tokenizer, [token])
    if len(ids) != 1:
        parts = ", ".join(repr(sae.texts.texts[one]) for one in ids)
        raise SourceError(f"{token!r} is {len(ids)} tokens ({parts or 'none'}) and not one. Spaces count: try ' word'.")
    return ids[0]
