"""A real browser that opens pages from disk: Debian's Chromium, driven by Playwright.

Each module of tests has one, the fixture `browser` (tests/conftest.py). After each test the fixture asks that no page
has complained on its console, thrown an error or asked for anything but files.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import playwright.sync_api as playwright

DESKTOP, PHONE = (1280, 800), (390, 844)


def find_chromium() -> str | None:
    """The path of Chromium on this machine, if it has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A browser without a network. It notes what its pages ask for and what they complain of."""

    def __init__(self, process: "playwright.Browser") -> None:
        self._process = process
        self._contexts: list[playwright.BrowserContext] = []
        self.requests: list[str] = []
        """The URL of everything that the pages asked for, in order."""
        self.complaints: list[str] = []
        """The errors and warnings of their consoles, and what their scripts threw."""

    def open(
        self, file: Path, fragment: str = "", *, size: tuple[int, int] = DESKTOP, dark: bool = False
    ) -> "playwright.Page":
        """Open a file in a window of a size in pixels, as a user does who clicks on it."""
        width, height = size
        context = self._process.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            has_touch=width < 600,
            offline=True,
        )
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"thrown: {error}"))
        page.goto(file.resolve().as_uri() + fragment)
        return page

    def _note(self, message: "playwright.ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def files(self, suffix: str = "") -> list[str]:
        """The names of the files that the pages asked for, in order; of those only that end in `suffix`."""
        names = [Path(unquote(urlsplit(url).path)).name for url in self.requests]
        return [name for name in names if name.endswith(suffix)]

    def check(self) -> None:
        """Fail if a page has complained or asked for anything but files."""
        elsewhere = [url for url in self.requests if urlsplit(url).scheme not in ("file", "data", "blob")]
        assert not elsewhere, f"the page asked for more than files: {elsewhere}"
        assert not self.complaints, "the page complained: " + "; ".join(self.complaints)

    def forget(self) -> None:
        """Close all pages and forget what they did."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self.requests.clear()
        self.complaints.clear()


@contextmanager
def start_browser() -> Iterator[Browser]:
    """A browser, until the block ends. While it runs, its thread has an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        process = driver.chromium.launch(executable_path=find_chromium(), args=["--disable-gpu"])
        try:
            yield Browser(process)
        finally:
            process.close()
