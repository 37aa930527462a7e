"""The built-in corpus: the running interpreter's own standard library, as documents.

Sources and pydoc topics, so that a fresh machine without a network has real text to work on. Left out: test
packages, generated tables, and files with over-long lines, none of which reads like text that a person wrote.
"""

import ast
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from lmsae.text.documents import Document

SKIPPED_PACKAGES = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "_bundled", "idlelib", "lib2to3", "encodings", "pydoc_data"}
)
TEST_PACKAGES = frozenset({"test", "tests", "idle_test"})
GENERATED_FILES = frozenset({"html/entities.py", "stringprep.py", "token.py", "opcode.py", "_opcode_metadata.py"})
LONGEST_LINE = 300
SHORTEST_DOCUMENT = 200


def stdlib_documents(*, with_tests: bool = False) -> Iterator[Document]:
    """Yield the documents of `builtin:python-stdlib`, in the order of their names.

    `with_tests` adds the standard library's own test packages; only the recipe of the built-in model asks for them.
    """
    documents = [*_sources(with_tests), *_topics()]
    yield from sorted(documents, key=lambda document: document.name)


def stdlib_files(*, with_tests: bool = False) -> Iterator[Path]:
    """Yield every file that the documents are made of, or that was looked at and left out for its contents."""
    root, skipped = _root(), SKIPPED_PACKAGES if with_tests else SKIPPED_PACKAGES | TEST_PACKAGES
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            if path.relative_to(root).as_posix() not in GENERATED_FILES and not path.name.startswith("_sysconfigdata"):
                yield path
    if _topics_file().is_file():
        yield _topics_file()


def is_test(name: str) -> bool:
    """Whether the named document belongs to one of the standard library's test packages."""
    return bool(TEST_PACKAGES & set(name.split("/")))


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _topics_file() -> Path:
    """The language reference that `pydoc` carries: one literal dict from topic to text."""
    return _root() / "pydoc_data" / "topics.py"


def _sources(with_tests: bool) -> Iterator[Document]:
    for path in stdlib_files(with_tests=with_tests):
        if path == _topics_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        if "\ufffd" in text or len(text) < SHORTEST_DOCUMENT or max(map(len, text.splitlines())) > LONGEST_LINE:
            continue
        yield Document(path.relative_to(_root()).as_posix(), text)


def _topics() -> Iterator[Document]:
    """The topics, read without running the file."""
    if not _topics_file().is_file():
        return
    for node in ast.parse(_topics_file().read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in ast.literal_eval(node.value).items():
                yield Document(f"pydoc_data/topics/{topic}", text)
