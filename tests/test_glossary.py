"""The glossary is true of the code: its names exist, words that it rules out are absent, docstrings name things."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lmsae.planning.sheet import columns
from tests.test_docs import table_after
from tests.test_repository import tracked_files

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs/glossary.md"
SOURCES = sorted((ROOT / "lmsae").rglob("*.py"))
# Words of a name: runs of small letters, with or without a capital, and runs of capitals.
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_of(name: str) -> set[str]:
    """The words of an identifier, in small letters: `HookPoint` and `hook_point` have the same."""
    return {word.lower() for part in name.split("_") for word in WORDS.findall(part)}


def test_words_are_found_in_every_way_of_writing_names() -> None:
    assert words_of("HookPoint") == words_of("_hook_point") == words_of("HOOK_POINT") == {"hook", "point"}
    assert words_of("SAEFeatures2") == {"sae", "features"}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def defined_names(file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of all that a file defines: itself, classes, functions, arguments, variables, attributes, columns.

    Names that it takes from other packages are not among them.
    """
    yield 1, file.stem if file.stem != "__init__" else file.parent.name
    for node in ast.walk(parsed(file)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((node.lineno, alias.asname) for alias in aliases if alias.asname)


def code_spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def ruled_out() -> Iterator[tuple[list[str], str, list[str]]]:
    """The words that are not used, the word to use, and where the former are right, of each line of the table."""
    for words, instead, places in table_after("## Words that the code does not use", GLOSSARY):
        yield code_spans(words), instead, [place for place in code_spans(places) if place.startswith("lmsae/")]


@cache
def places_of_words() -> dict[str, list[tuple[str, str]]]:
    """Of each word, place (`file:line`) and name of the identifiers that contain it."""
    places = defaultdict(list)
    for file in SOURCES:
        for line, name in defined_names(file):
            for word in words_of(name):
                places[word].append((f"{file.relative_to(ROOT)}:{line}", name))
    return places


def uses_of(words: list[str]) -> list[tuple[str, str]]:
    return [use for word in words for use in places_of_words().get(word, [])]


def test_no_name_in_the_code_has_a_word_that_the_glossary_rules_out() -> None:
    faults = [
        f"{place}: {name}; the glossary says {instead}"
        for words, instead, exceptions in ruled_out()
        for place, name in uses_of(words)
        if not place.startswith(tuple(exceptions))
    ]
    assert not faults, "\n".join(["", *faults])


def test_every_exception_of_the_glossary_is_needed() -> None:
    for words, _, exceptions in ruled_out():
        places = [place for place, _ in uses_of(words)]
        assert [one for one in exceptions if not any(place.startswith(one) for place in places)] == [], words


def test_every_name_in_the_glossary_exists() -> None:
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in SOURCES}
    known = {name for file in SOURCES for _, name in defined_names(file)} | modules
    known |= {column.partition(".")[2] for column in columns()}
    named = [name for *_, cell in table_after("## Words", GLOSSARY) for name in code_spans(cell)]
    assert len(named) > 40
    assert sorted({*named} - known) == []


def docstrings() -> Iterator[tuple[str, str]]:
    """Place and text of every docstring: of modules, classes, functions, and of attributes below their assignment."""
    for file in SOURCES:
        for node in ast.walk(parsed(file)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for before, statement in zip([None, *node.body], node.body, strict=False):
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        if before is None or isinstance(before, ast.Assign | ast.AnnAssign):
                            yield f"{file.relative_to(ROOT)}:{statement.lineno}", text


def test_every_docstring_names_a_thing_and_none_begins_with_a_question_word() -> None:
    question = re.compile(r"(What|Whether|How|Why|Which|Where|When|Who|Whose)\b")
    found = [f"{place}: {text.splitlines()[0]}" for place, text in docstrings() if question.match(text.strip())]
    assert not found, "\n".join([f"{len(found)} docstrings:", *found])


# British spellings, as patterns within words; American ones are used everywhere.
BRITISH = re.compile(
    r"""
    (?:normal|optim|initial|token|summar|organ|recogn|real|minim|maxim|util|visual|general|serial|quant|standard|random
      |factor|regular|vector|synchron|penal|special|character|parameter|parametr|local|central|categor|final|neutral
      |symbol|memor|diagonal|priorit|custom|stabil|linear|color|colour)is(?:e|ing|ation|able)
    | analys(?:e\b|ed|er|ing) | catalys(?:e|ing)
    | (?:col|behavi|neighb|fav|hon|lab|flav|rum|vap|harb)our | centre | centring | litre | fibre | theatre | calibre
    | (?:model|label|cancel|travel|level|channel|signal|marshal|tunnel|spiral)l(?:ed|ing|er)
    | (?:lic|def|off|pret)ence | catalogue | artefact | judgement | whilst | amongst | learnt | spelt | burnt
    | aluminium | programme\b | \bgrey | fulfil\b | instalment | skilful | plough
    """,
    re.VERBOSE | re.IGNORECASE,
)


@pytest.mark.parametrize("word", ["normalised", "OPTIMISER", "colours", "Centre", "parameterisations", "neighbours"])
def test_a_british_spelling_is_found(word: str) -> None:
    assert BRITISH.search(f"as {word}_of x")


@pytest.mark.parametrize(
    "word", ["precise", "otherwise", "noise", "raise", "parallel", "parameters", "millimeter", "advise"]
)
def test_an_american_word_is_not(word: str) -> None:
    assert not BRITISH.search(word)


def test_no_file_has_a_british_spelling_in_its_text_or_its_name() -> None:
    """Dated results stay as they were printed, and the vocabulary of the built-in model is what it learned."""
    found = []
    for file in tracked_files():
        name = file.relative_to(ROOT).as_posix()
        if (
            file == Path(__file__)
            or name.startswith("benchmarks/results/2")
            or file.suffix in (".lock", ".safetensors", ".svg")
        ):
            continue
        found += [f"{name}: its name has {match[0]}" for match in BRITISH.finditer(name)]
        if file.name != "tokenizer.json":
            lines = enumerate(file.read_text().splitlines(), 1)
            found += [f"{name}:{number}: {match[0]}" for number, line in lines for match in BRITISH.finditer(line)]
    assert not found, "\n".join(["", *found])
