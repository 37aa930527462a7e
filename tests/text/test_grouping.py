"""Documents that share much of their text are in one split, and no other moves."""

from lmsae.text.documents import Document, digest_of, is_held_out, split_rank
from lmsae.text.grouping import MOST_COMMON, group_by_content
from lmsae.text.stdlib import stdlib_documents


def lines(name: str, count: int) -> str:
    """So many lines that no other name has."""
    return "".join(f"    {name} {number}\n\n" for number in range(count))


def groups(documents: list[Document]) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    for document in group_by_content(documents):
        found.setdefault(document.split_name, set()).add(document.name)
    return sorted(found.values(), key=min)


def test_a_document_that_contains_another_is_in_its_group_whatever_its_indentation() -> None:
    part = lines("part", 20)
    texts = {"a": lines("a", 500) + part, "b": part.replace("    ", ""), "c": lines("c", 20), "d": lines("a", 60)}
    assert groups([Document(*item) for item in texts.items()]) == [{"a", "b", "d"}, {"c"}]


def test_a_few_shared_lines_make_no_group_and_a_phrase_of_many_documents_neither() -> None:
    few = [Document(name, lines(name, 100) + lines("shared", 8)) for name in "ab"]
    assert groups(few) == [{"a"}, {"b"}]
    licensed = [Document(f"{n:02}", lines("license", 10) + lines(f"own {n}", 5)) for n in range(MOST_COMMON + 1)]
    assert len(groups(licensed)) == MOST_COMMON + 1
    assert len(groups(licensed[:-1])) == 1


def test_a_group_is_held_out_only_if_each_of_its_documents_would_be() -> None:
    text = lines("same", 10)
    for first in range(40):
        names = [f"{first} {n}" for n in range(3)]
        for document in group_by_content([Document(name, text) for name in names]):
            assert document.split_name == max(names, key=split_rank)
            assert is_held_out(document.split_name, 0.5) == all(is_held_out(name, 0.5) for name in names)


def test_a_group_is_part_of_the_identity() -> None:
    assert digest_of([Document("a", "b")]) == digest_of([Document("a", "b", group="a")])
    assert digest_of([Document("a", "b")]) != digest_of([Document("a", "b", group="c")])


def test_the_built_in_text_is_split_by_content() -> None:
    documents = list(stdlib_documents())
    held_out = [one for one in documents if is_held_out(one.split_name, 0.1)]
    assert {one.name for one in held_out} < {one.name for one in documents if is_held_out(one.name, 0.1)}

    def runs(document: Document) -> set[str]:
        """Its runs of eight words."""
        words = document.text.split()
        return {" ".join(words[n : n + 8]) for n in range(len(words) - 7)}

    train = set().union(*(runs(one) for one in documents if not is_held_out(one.split_name, 0.1)))
    shares = {one.name: len(runs(one) & train) / len(runs(one)) for one in held_out}
    assert max(shares.values()) < 0.5  # of these words, which licenses and idioms share too; before, it was 1
    size = {one.name: len(runs(one)) for one in held_out}
    assert sum(shares[name] * size[name] for name in size) / sum(size.values()) < 0.02
