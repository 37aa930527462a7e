"""The tiny models of tests/lm, whose layers dictionaries start from."""

from tests.lm.conftest import model_folder, pytest_generate_tests, tokens

__all__ = ["model_folder", "pytest_generate_tests", "tokens"]
