"""The browser of the tests notices what a page does wrong."""

from pathlib import Path

import pytest

from tests.browser import DESKTOP, PHONE, Browser

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def page(folder: Path, script: str) -> Path:
    """A page with a script."""
    (folder / "page.html").write_text(
        f'<!doctype html><link rel="icon" href="data:,"><p>shown</p><script>{script}</script>'
    )
    return folder / "page.html"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('broken')", "error: broken"),
        ("console.warn('doubtful')", "warning: doubtful"),
        ("nothing.there()", "thrown: .*nothing is not defined"),
        ("document.write(\"<img src='http://localhost:9/a.png'>\")", r"more than files: .*localhost:9/a\.png"),
    ],
)
def test_a_page_that_complains_or_asks_a_network_fails_its_test(
    browser: Browser, tmp_path: Path, script: str, complaint: str
) -> None:
    browser.open(page(tmp_path, script)).wait_for_load_state("networkidle")
    with pytest.raises(AssertionError, match=complaint):
        browser.check()
    browser.forget()


def test_a_page_that_reads_files_beside_it_is_well(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "beside.js").write_text("document.querySelector('p').textContent = 'read'")
    opened = browser.open(page(tmp_path, "document.write('<script src=beside.js><\\/script>')"))
    assert opened.inner_text("p") == "read"
    assert browser.files() == ["page.html", "beside.js"]
    assert browser.files(".js") == ["beside.js"]


def test_a_page_is_opened_on_a_desktop_or_a_phone_in_light_or_dark(browser: Browser, tmp_path: Path) -> None:
    ask = "[innerWidth, innerHeight, matchMedia('(prefers-color-scheme: dark)').matches]"
    file = page(tmp_path, "")
    assert browser.open(file).evaluate(ask) == [*DESKTOP, False]
    assert browser.open(file, size=PHONE, dark=True).evaluate(ask)[2] is True
