"""The interactive figures in a real browser: hints, links, filters, and room for all on every screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import PHONE

if TYPE_CHECKING:
    import playwright.sync_api as playwright

    from tests.browser import Browser

POINTS = "#explore-pareto .charts > div:first-child g.mark-symbol.role-mark path"


def drawn(browser: Browser, page: Path, **how: Any) -> playwright.Page:
    opened = browser.open(page, **how)
    opened.wait_for_selector("body[data-drawn=yes]")
    return opened


def points_of(page: playwright.Page) -> Any:
    """The marks of rows in the first figure."""
    return page.locator(POINTS)


@pytest.mark.browser
def test_a_point_is_a_row_that_leads_to_itself_or_to_its_latents(browser: Browser, explored: Path) -> None:
    page = drawn(browser, explored)
    assert points_of(page).count() == 12
    targets = json.loads(page.evaluate("JSON.stringify(said.data.rows.map(row => [row.row, row.href]))"))
    assert dict(targets)["topk-4-1"] == "rows/topk-4-1/page/index.html"
    assert dict(targets)["topk-4-0"] == "#row-topk-4-0"


@pytest.mark.browser
def test_the_point_under_the_pointer_tells_its_row_and_a_click_opens_it(browser: Browser, explored: Path) -> None:
    page = drawn(browser, explored)
    points = points_of(page)
    points.first.scroll_into_view_if_needed()
    box = points.nth(11).bounding_box()
    assert box
    page.mouse.move(box["x"] + 5, box["y"] - 60)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hint = page.locator("#vg-tooltip-element.visible")
    hint.wait_for()
    told = hint.locator("tr").first.locator("td.value").inner_text()
    assert told == page.evaluate("said.data.rows[11].row")
    points.nth(11).click(force=True)
    page.wait_for_function(f"location.hash === '#row-{told}'")
    assert page.locator(f"[id='row-{told}']").get_attribute("open") is not None


@pytest.mark.browser
def test_filters_hold_for_the_table_and_the_figures(browser: Browser, explored: Path) -> None:
    page = drawn(browser, explored)
    visible: Callable[[], int] = page.locator("#rows-table tbody tr:visible").count
    assert (visible(), page.locator("#filters output").inner_text()) == (13, "13 rows")
    page.locator("#filters label", has_text="seed").locator("select").select_option(label="1")
    assert (visible(), page.locator("#filters output").inner_text()) == (6, "6 of 13 rows")
    page.locator("#filters input").fill("batch 8")
    assert visible() == 1
    page.wait_for_function(f"document.querySelectorAll('{POINTS}').length === 1")
    page.locator("#filters input").fill("")
    page.locator("#filters label", has_text="seed").locator("select").select_option(label="all")
    assert visible() == 13


@pytest.mark.browser
def test_figures_of_another_hook_point_are_chosen(browser: Browser, explored: Path) -> None:
    page = drawn(browser, explored)
    page.locator("#explore-curves .swatches select").select_option(label="blocks.1.hook_resid_post")
    page.wait_for_function(f"document.querySelectorAll('{POINTS}').length === 1")
    assert page.locator("#explore-pareto .swatches select").input_value() == "blocks.1.hook_resid_post"


@pytest.mark.browser
@pytest.mark.parametrize("how", [{}, {"size": PHONE}, {"dark": True}])
def test_nothing_is_wider_than_the_window_and_drawn_figures_make_room(
    browser: Browser, explored: Path, how: dict[str, Any]
) -> None:
    page = drawn(browser, explored, **how)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".drawn-pareto").is_hidden()
    assert page.locator(".drawn-density").is_visible()
    assert page.locator("#explore-curves .charts svg").first.is_visible()
