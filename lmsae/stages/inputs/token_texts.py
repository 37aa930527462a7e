"""The texts of a tokenizer's tokens, for people to read."""

import numpy as np

from lmsae.interpretation.texts import TokenTexts
from lmsae.lm import ResolvedModel, load_tokenizer
from lmsae.lm.resolving import NoTokenizer
from lmsae.stages.interpret import Config
from lmsae.stages.models import read_config
from lmsae.vectors.sources import is_source

DOT = "·"
"""The text of a vector of which nothing more is known."""


def texts_of(tokenizer: ResolvedModel) -> TokenTexts:
    """The texts of the tokenizer's tokens, or numbers for a model without one."""
    try:
        return TokenTexts.of_tokenizer(load_tokenizer(tokenizer))
    except NoTokenizer:
        return TokenTexts.of_numbers(read_config(tokenizer)["vocab_size"])


def read_texts(config: Config, ids: np.ndarray) -> tuple[np.ndarray, TokenTexts]:
    """The token ids of contexts, and the texts of all ids. `ids` are those of a token set.

    Of own activations these are the numbers of vectors, in the place of which come the token ids beside them; as texts
    those have numbers if no tokenizer is named. Without token ids every vector is the same token, a dot. Raises
    SourceError for ids that the tokenizer does not have.
    """
    if not is_source(config.models[0].source):
        return ids, texts_of(config.tokenizer)
    if config.token_ids is None:
        return np.zeros_like(ids), TokenTexts([DOT.encode()])
    from lmsae.vectors.token_ids import StoredIds

    stored = StoredIds(config.token_ids)
    if is_source(config.tokenizer):
        found = stored.read(ids)
        return found, TokenTexts.of_numbers(int(found.max()) + 1)
    texts = texts_of(config.tokenizer)
    return stored.read(ids, len(texts), f"the tokenizer of {config.tokenizer.name}"), texts
