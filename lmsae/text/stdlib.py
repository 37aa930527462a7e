"""The built-in text: the standard library of the running Python, as documents.

The documents are its source files and its pydoc topics, so a fresh machine without a network has real text to work on.
Test packages, generated tables and files with very long lines are left out: they do not read like text that a person
wrote. Some documents contain parts of others, such as a topic of a broader one: those are in one split.
"""

import ast
import os
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path

from lmsae.text import documents, grouping
from lmsae.text.dataset import STDLIB, DatasetConfig, ResolvedDataset
from lmsae.text.documents import Document, digest_of
from lmsae.text.grouping import group_by_content
from lmsae.text.kind import COLUMNS_OF_ALL, DigestLookup, key_of_files

SKIPPED_PACKAGES = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "_bundled", "idlelib", "lib2to3", "encodings", "pydoc_data"}
)
TEST_PACKAGES = frozenset({"test", "tests", "idle_test"})
GENERATED_FILES = frozenset({"html/entities.py", "stringprep.py", "token.py", "opcode.py", "_opcode_metadata.py"})
LONGEST_LINE = 300
SHORTEST_DOCUMENT = 200


class StandardLibrary:
    """`builtin:python-stdlib`; its identity is a digest of its documents."""

    name = STDLIB
    holds_ids = False
    can_change = True

    def recognizes(self, name: str) -> bool:
        """True for its own name."""
        return name == self.name

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """Only those of all texts."""
        return COLUMNS_OF_ALL

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The digest of the documents."""
        # The code below decides what counts as a document. When it changes, the documents may change too.
        rules = [Path(__file__), *(Path(str(module.__file__)) for module in (documents, grouping))]
        return look_up(key_of_files([*rules, *stdlib_files()]), lambda: digest_of(stdlib_documents()))

    def documents(self, dataset: ResolvedDataset) -> Iterator[Document]:
        """The documents, in the order of their names."""
        return stdlib_documents()


def stdlib_documents(*, with_tests: bool = False) -> Iterator[Document]:
    """Yield the documents of `builtin:python-stdlib`, in the order of their names.

    `with_tests` adds the standard library's own test packages; only the recipe of the built-in model asks for them.
    """
    found = [*_source_files(with_tests), *_topics()]
    yield from group_by_content(sorted(found, key=lambda document: document.name))


def stdlib_files(*, with_tests: bool = False) -> Iterator[Path]:
    """Yield every file whose contents decide about the documents, be it one of them or left out."""
    root, skipped = _root(), SKIPPED_PACKAGES if with_tests else SKIPPED_PACKAGES | TEST_PACKAGES
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            if path.relative_to(root).as_posix() not in GENERATED_FILES and not path.name.startswith("_sysconfigdata"):
                yield path
    if _topics_file().is_file():
        yield _topics_file()


def is_test(name: str) -> bool:
    """True if the named document belongs to one of the standard library's test packages."""
    return bool(TEST_PACKAGES & set(name.split("/")))


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _topics_file() -> Path:
    """The language reference that `pydoc` carries: a file that holds one dict from topic to text."""
    return _root() / "pydoc_data" / "topics.py"


def _source_files(with_tests: bool) -> Iterator[Document]:
    for path in stdlib_files(with_tests=with_tests):
        if path == _topics_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        if "\ufffd" in text or len(text) < SHORTEST_DOCUMENT or max(map(len, text.splitlines())) > LONGEST_LINE:
            continue
        yield Document(path.relative_to(_root()).as_posix(), text)


def _topics() -> Iterator[Document]:
    """Yield the topics of pydoc, read without running their file."""
    if not _topics_file().is_file():
        return
    for node in ast.parse(_topics_file().read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in ast.literal_eval(node.value).items():
                yield Document(f"pydoc_data/topics/{topic}", text)
