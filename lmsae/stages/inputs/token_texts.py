"""The texts of a tokenizer's tokens, for people to read."""

from lmsae.interpretation.texts import TokenTexts
from lmsae.lm import ResolvedModel, load_tokenizer
from lmsae.lm.resolving import NoTokenizer
from lmsae.stages.models import read_config
from lmsae.vectors.sources import is_source


def texts_of(tokenizer: ResolvedModel) -> TokenTexts:
    """The texts of the tokenizer's tokens, or numbers for a model without one; for own activations a dot."""
    if is_source(tokenizer):
        return TokenTexts(["·".encode()])
    try:
        return TokenTexts.of_tokenizer(load_tokenizer(tokenizer))
    except NoTokenizer:
        return TokenTexts.of_numbers(read_config(tokenizer)["vocab_size"])
