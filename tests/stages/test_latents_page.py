"""The stage page: what a reader finds under results/."""

import json
import shutil
from pathlib import Path

import pytest

from lmsae.interpretation.leaves import LATENTS_A_FILE
from tests.browser import Browser
from tests.miniature import ROWS


def test_every_row_has_a_page_of_what_was_measured_of_it(finished: Path) -> None:
    for row in ROWS:
        page = finished / "results" / "rows" / row["name"] / "page"
        assert page.resolve().parent == (finished / "artifacts" / "page").resolve()
        assert (page / "index.html").read_text().startswith("<!doctype html>")
        table = (page / "data" / "latents.js").read_text()
        info = json.loads((page.parent / "features" / "features.json").read_text())
        assert json.loads(table[table.index(",") + 1 : -2])["info"] == info


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
def test_the_report_leads_to_the_page_of_a_rows_latents(browser: Browser, finished: Path) -> None:
    opened = browser.open(finished / "results" / "report.html")
    links = opened.locator("td a", has_text="latents")
    assert links.count() == len(ROWS)
    links.first.click()
    opened.wait_for_selector("#rows a")
    assert opened.inner_text("h1") == ROWS[0]["name"]
    assert opened.inner_text("#count") == "64 latents"
    opened.locator("#columns .firing_rate button").click()
    opened.locator("#rows a").first.click()
    opened.wait_for_selector("#detail .parts:not([aria-busy]) .context .hot")
    number = int(opened.url.rpartition("/")[2])
    assert browser.files(".js") == ["latents.js", f"{number // LATENTS_A_FILE}.js"]


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
def test_a_copy_of_a_page_is_whole(browser: Browser, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results" / "rows" / "top" / "page", tmp_path / "sent")
    opened = browser.open(tmp_path / "sent" / "index.html", "#latent/0")
    opened.wait_for_selector("#detail .parts:not([aria-busy])")
    assert opened.title().startswith("Latent 0 · ")
