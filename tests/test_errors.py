"""The errors: one tree, documented whole, with messages that say enough."""

import re

import pytest

from lmsae import errors
from lmsae.errors import ConfigError, Fault, LmsaeError, suggest


def all_below(cls: type) -> list[type]:
    return [child for direct in cls.__subclasses__() for child in (direct, *all_below(direct))]


def test_the_module_docstring_shows_every_public_error_and_its_parent() -> None:
    parents: dict[str, str] = {}
    path = ["LmsaeError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([ │]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 5 + 1
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1]
    public = [error for error in all_below(LmsaeError) if error.__module__ == "lmsae.errors"]
    assert parents == {error.__name__: error.__base__.__name__ for error in public if error.__base__}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("sweep.tsv", "a", "train.lr", "is odd"), "sweep.tsv, row a, column train.lr: is odd"),
        (Fault("config.yaml", None, "train.lr", "is odd"), "config.yaml, column train.lr: is odd"),
        (Fault("sweep.tsv", None, None, "is odd"), "sweep.tsv: is odd"),
    ],
)
def test_a_fault_says_where_it_stands(fault: Fault, text: str) -> None:
    assert str(fault) == text


def test_a_config_error_counts_and_lists_all_its_faults() -> None:
    one, two = Fault("a", None, None, "first"), Fault("b", None, None, "second")
    assert str(ConfigError([one])) == "1 fault found; nothing was run.\n  a: first"
    assert str(ConfigError([one, two])) == "2 faults found; nothing was run.\n  a: first\n  b: second"


def test_a_suggestion_names_what_was_probably_meant_or_nothing() -> None:
    assert suggest("train.lrr", ["train.lr", "eval.tokens"]) == "; did you mean train.lr?"
    assert suggest("zebra", ["train.lr", "eval.tokens"]) == ""
