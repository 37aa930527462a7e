"""The tiny models of tests/lm, whose layers dictionaries start from."""

from tests.lm.conftest import model_folder, tokens

__all__ = ["model_folder", "tokens"]
