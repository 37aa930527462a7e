import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.text.documents import Document, digest_of, is_held_out, shuffle_rank
from lmsae.text.stdlib import is_test, stdlib_documents, stdlib_files

fractions = st.floats(0, 1)


@given(st.text(), fractions, fractions)
def test_a_larger_fraction_only_adds_documents_to_the_held_out_side(name: str, one: float, other: float) -> None:
    if is_held_out(name, min(one, other)):
        assert is_held_out(name, max(one, other))


def test_the_held_out_share_is_the_fraction_that_was_asked_for() -> None:
    share = sum(is_held_out(f"document {number}", 0.1) for number in range(20_000)) / 20_000
    assert abs(share - 0.1) < 0.01


def test_the_sides_of_known_names_never_change() -> None:
    names = ("abc.py", "json/decoder.py", "0", "a.jsonl:17")
    assert [is_held_out(name, 0.1) for name in names] == [False, False, False, False]
    assert [is_held_out(name, 0.5) for name in names] == [False, True, True, False]
    assert [shuffle_rank(0, name) for name in names] == [
        9308148600224822879,
        17920975376659087877,
        6130494115091502932,
        8594745996765311280,
    ]


def test_the_digest_depends_on_names_and_texts_and_not_on_their_order() -> None:
    one, other = Document("a", "bc"), Document("d", "")
    assert digest_of([one, other]) == digest_of([other, one])
    assert len({digest_of(each) for each in ([one], [Document("ab", "c")], [one, other], [])}) == 4


def test_the_built_in_text_is_the_library_without_its_tests() -> None:
    names = [document.name for document in stdlib_documents()]
    assert names == sorted(names)
    assert len(names) == len(set(names)) > 300
    assert "json/decoder.py" in names
    assert "pydoc_data/topics/assert" in names
    assert not any(is_test(name) for name in names)
    assert {path.name for path in stdlib_files()} >= {name.rpartition("/")[2] for name in names if name.endswith(".py")}


@pytest.mark.slow
def test_the_recipe_may_ask_for_the_test_packages_too() -> None:
    plain = {document.name for document in stdlib_documents()}
    added = {document.name for document in stdlib_documents(with_tests=True)} - plain
    assert added
    assert all(is_test(name) for name in added)
