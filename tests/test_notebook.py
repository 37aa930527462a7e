"""The page on notebooks shows what its snippets print. `python -m tests.test_notebook` writes their outputs again.

On the kind of machine that the page was written on, outputs are those of the page to the letter. Other processors round
otherwise, and another Python has another standard library, which is the text; there the snippets run.
"""

import contextlib
import io
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.test_bytes import kind_of_machine

PAGE = Path(__file__).resolve().parent.parent / "docs/notebook.md"
STEP = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
WRITTEN_ON = re.compile(r"<!-- outputs of (.*) -->")


def here() -> str:
    """What outputs depend on."""
    return f"Python {platform.python_version()}, {kind_of_machine()}"


def outputs_of(page: str) -> list[str]:
    """What the snippets of a page print, one after the other in the working directory."""
    names: dict[str, Any] = {}
    printed = []
    for number, (snippet, _) in enumerate(STEP.findall(page), 1):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(snippet, f"{PAGE.name}, python block {number}", "exec"), names)
        printed.append("".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines()))
    return printed


def with_outputs(page: str, printed: list[str]) -> str:
    """The page with these outputs behind its snippets."""
    each = iter(printed)

    def write(match: re.Match[str]) -> str:
        out = next(each)
        return f"```python\n{match[1]}```\n" + (f"\n```text\n{out}```\n" if out else "")

    return WRITTEN_ON.sub(f"<!-- outputs of {here()} -->", STEP.sub(write, page))


def test_outputs_are_written_behind_their_snippets() -> None:
    page = "<!-- outputs of x -->\n\n```python\nprint(1)\n```\n\n```python\na = 2\n```\n\n```text\nold\n```\n\nEnd.\n"
    printed = outputs_of(page)
    assert printed == ["1\n", ""]
    written = with_outputs(page, printed)
    assert written.endswith("\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\na = 2\n```\n\nEnd.\n")
    assert with_outputs(written, printed) == written


@pytest.mark.slow
def test_the_snippets_of_the_page_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    shown, printed = [output for _, output in STEP.findall(page)], outputs_of(page)
    assert [bool(output) for output in printed] == [bool(output) for output in shown]
    written_on = WRITTEN_ON.search(page)
    assert written_on is not None
    if written_on[1] == here():
        assert printed == shown


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        made = outputs_of(PAGE.read_text())
    PAGE.write_text(with_outputs(PAGE.read_text(), made))
