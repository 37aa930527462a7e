"""Groups: documents that share much of their text, which one split alone may have."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from lmsae.text.documents import Document, split_rank

PASSAGE_LINES = 3
"""Lines of a passage. Indentation and blank lines make no difference to it."""
LEAST_SHARED = 0.1
"""Documents form a group if they share this part of the passages of the shorter one."""
MOST_COMMON = 20
"""A passage in more documents than this is a phrase of their language, such as a license."""


def group_by_content(documents: Sequence[Document]) -> list[Document]:
    """The same documents, of which those that share much of their text are in one group.

    A group is held out only if each of its documents would be by its own name. So grouping takes documents out of the
    held-out split and adds none: a model that has not seen that split before has not seen it now.
    """
    passages = [_passages(document.text) for document in documents]
    owners = defaultdict[str, list[int]](list)
    for number, found in enumerate(passages):
        for passage in found:
            owners[passage].append(number)
    shared = Counter(
        pair for numbers in owners.values() if 1 < len(numbers) <= MOST_COMMON for pair in combinations(numbers, 2)
    )
    leader = list(range(len(documents)))

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for (one, other), count in shared.items():
        if count >= LEAST_SHARED * min(len(passages[one]), len(passages[other])):
            leader[find(other)] = find(one)
    names = defaultdict[int, list[str]](list)
    for number, document in enumerate(documents):
        names[find(number)].append(document.name)
    groups = {number: max(members, key=split_rank) for number, members in names.items()}
    return [replace(document, group=groups[find(number)]) for number, document in enumerate(documents)]


def _passages(text: str) -> set[str]:
    """All runs of a few lines."""
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    return {"\n".join(lines[begin : begin + PASSAGE_LINES]) for begin in range(len(lines) - PASSAGE_LINES + 1)}
