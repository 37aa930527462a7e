"""The page of a dictionary's latents, as a reader uses it: in a browser, from disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from lmsae.interpretation.explaining.on_disk import SCHEMA
from lmsae.interpretation.leaves import LATENTS_A_FILE
from lmsae.interpretation.rendering import write_page
from lmsae.interpretation.schema import Location
from tests.browser import PHONE, Browser
from tests.interpretation.measured import HOSTILE, STRANGE, WORDS, contexts, latent, write_measured

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
LATENTS = 3000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a row of many latents, one in ten of them dead."""
    folder = tmp_path_factory.mktemp("pages")
    latents = [latent(number, LATENTS) for number in range(LATENTS)]
    pieces = [piece for number in range(0, LATENTS, 100) for piece in contexts(number + 7)]
    return written(folder / "rows" / "my row" / "page", write_measured(folder / "measured", latents, pieces))


def written(out: Path, measured: Path) -> Path:
    out.mkdir(parents=True)
    write_page(measured, out)
    return out / "index.html"


def of_one(folder: Path, explanations: list[str | None] | None = None, **changes: Any) -> Path:
    """The page of three latents, the second of which has contexts and other values."""
    pieces = contexts(1, **{name: value for name, value in changes.items() if name in contexts(1)[0]})
    described = {name: value for name, value in changes.items() if name in latent(1)}
    told = {name: value for name, value in changes.items() if name in ("reads", "writes", "signed")}
    latents = [latent(0, 3), latent(9, 3, **{**described, "latent": 1}), latent(2, 3)]
    return written(folder / "page", write_measured(folder / "measured", latents, pieces, explanations, **told))


def numbers(opened: Page) -> list[str]:
    """The latents in sight, from above."""
    return opened.locator("#rows a").all_inner_texts()


def search(opened: Page, text: str) -> str:
    """Search the table; returns what is said of how many latents are left."""
    opened.fill("#search", text)
    return opened.inner_text("#count")


def wait_for_latent(opened: Page, number: int) -> None:
    opened.wait_for_selector(f"#detail h1:text-is('Latent {number}')")
    opened.wait_for_selector("#detail .parts:not([aria-busy])")


def test_the_table_shows_all_latents_and_makes_only_the_rows_in_sight(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    assert opened.inner_text("h1") == "my row"
    assert opened.inner_text("#count") == "3,000 latents"
    assert numbers(opened)[:3] == ["0", "1", "2"]
    assert len(numbers(opened)) < 40
    opened.keyboard.press("End")
    opened.wait_for_selector("#rows a:text-is('2999'):focus")
    assert numbers(opened)[-1] == "2999"
    assert len(numbers(opened)) < 40
    opened.keyboard.press("PageUp")
    opened.wait_for_selector("#rows a:text-is('2970')")
    opened.keyboard.press("Home")
    opened.wait_for_selector("#rows a:text-is('0'):focus")
    assert browser.files() == ["index.html", "latents.js"]


def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    heading = opened.locator("#columns .decoder_norm")
    heading.locator("button").click()
    assert numbers(opened)[:3] == ["2999", "2998", "2997"]
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert numbers(opened)[:3] == ["0", "1", "2"]
    assert opened.locator("#columns .latent").get_attribute("aria-sort") == "none"


def test_latents_without_a_value_come_last_in_either_direction(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    for _ in range(2):
        opened.click("#columns .mean_active button")
        first = opened.locator("#rows .mean_active").first
        assert first.inner_text() != "–"
        opened.evaluate("document.getElementById('scroller').scrollTop = 1e9")
        opened.wait_for_selector("#rows a:text-is('2991')")  # the last one that is dead
        assert opened.locator("#rows .mean_active").last.inner_text() == "–"


def test_top_tokens_sort_by_their_text(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    opened.click("#columns .top_tokens button")
    first = [row.split("\n")[0] for row in opened.locator("#rows .top_tokens").all_inner_texts()]
    assert first[0] == "("
    opened.click("#columns .top_tokens button")
    assert opened.locator("#rows .top_tokens bdi").first.inner_text() == "␣torch"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", "3,000 latents"),
        ("2345", "1 of 3,000 latents"),
        ("rate>20%", "300 of 3,000 latents"),
        ("rate>20% norm<1.01", "3 of 3,000 latents"),
        ("norm>=1.999", "3 of 3,000 latents"),
        ("mean<0", "0 of 3,000 latents"),
        ("zzz", "0 of 3,000 latents"),
        ('top:" def"', "0 of 3,000 latents"),
    ],
)
def test_a_search_keeps_the_latents_of_which_all_of_it_is_true(
    browser: Browser, page: Path, text: str, left: str
) -> None:
    assert search(browser.open(page), text) == left


def test_a_search_for_a_token_looks_where_it_is_told_to(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    expected = {
        word: sum(any(token["text"] == "def" for token in latent(one)[word][:3]) for one in range(LATENTS))
        for word in ("top_tokens", "promoted")
    }
    assert search(opened, "top:DEF") == f"{expected['top_tokens']:,} of 3,000 latents"
    assert search(opened, "promotes:def") == f"{expected['promoted']:,} of 3,000 latents"
    assert search(opened, "def") == f"{expected['promoted']:,} of 3,000 latents"
    assert expected["top_tokens"] < expected["promoted"]


def test_a_search_that_is_not_understood_is_told(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    assert search(opened, "rate>much") == "3,000 latents"
    assert opened.inner_text("#misread") == "not understood: rate>much"
    search(opened, "rate>1%")
    assert opened.locator("#misread").is_hidden()


def test_dead_and_dense_latents_are_chosen(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    texts = opened.locator("#state option").all_inner_texts()
    assert texts == ["all (3,000)", "alive (2,400)", "dead (600)", "dense (600)"]
    opened.select_option("#state", "dead")
    assert numbers(opened)[:4] == ["0", "1", "10", "11"]
    opened.select_option("#state", "dense")
    assert numbers(opened)[:4] == ["8", "9", "18", "19"]


def test_a_drag_over_the_firing_rates_searches_for_them(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    chart = opened.locator("#rates svg").bounding_box()
    assert chart
    opened.mouse.move(chart["x"] + chart["width"] * 0.88, chart["y"] + 5)
    opened.mouse.down()
    opened.mouse.move(chart["x"] + chart["width"] - 1, chart["y"] + 5)
    opened.mouse.up()
    assert opened.input_value("#search") == "rate>=0.178 rate<1.00"
    assert opened.inner_text("#count") == "300 of 3,000 latents"


def test_a_latent_is_opened_from_one_file_and_its_relatives_from_the_same(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    opened.click("#rows a >> text='7'")
    wait_for_latent(opened, 7)
    assert opened.url.endswith("index.html#latent/7")
    assert browser.files(".js") == ["latents.js", "0.js"]
    opened.click("#detail a[rel=next]")
    wait_for_latent(opened, 8)
    assert browser.files(".js") == ["latents.js", "0.js"]
    opened.goto(opened.url.replace("/8", "/2999"))
    wait_for_latent(opened, 2999)
    assert browser.files(".js") == ["latents.js", "0.js", f"{2999 // LATENTS_A_FILE}.js"]


def test_a_latents_page_has_its_text_and_numbers(browser: Browser, page: Path) -> None:
    opened = browser.open(page, "#latent/107")
    wait_for_latent(opened, 107)
    assert opened.title() == "Latent 107 · my row"
    assert opened.inner_text("#detail .facts").split("\n")[:2] == ["firing rate", "8 %"]
    headings = opened.locator("#detail h2").all_inner_texts()
    assert [heading.split("  ")[0] for heading in headings[:1]] == ["Largest activations"]
    for wanted in ("Activations", "Logits", "Top tokens", "Firing rate by position", "Neighbors", "Companions"):
        assert any(heading.startswith(wanted) for heading in headings), wanted
    assert not any(heading.startswith(("Writes", "Reads")) for heading in headings)
    assert opened.locator("#detail .context").count() == 8
    bar = opened.locator("#detail .side svg").first.locator("title").first
    assert bar.text_content() == "400 tokens from 0 to 0.417"
    logits = opened.locator("#detail .pair > div").first.locator("li").first.inner_text().split("\n")
    assert logits[0].replace("␣", " ") == latent(107)["promoted"][0]["text"]
    opened.click("#detail .side a >> text='112'")
    wait_for_latent(opened, 112)


def test_back_and_forward_go_through_the_latents_that_were_opened(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    opened.click("#rows a >> text='5'")
    wait_for_latent(opened, 5)
    opened.click("#detail a[rel=next]")
    wait_for_latent(opened, 6)
    opened.go_back()
    wait_for_latent(opened, 5)
    opened.go_back()
    opened.wait_for_selector("#overview:not([hidden])")
    assert opened.evaluate("document.activeElement.textContent") == "5"
    opened.go_forward()
    wait_for_latent(opened, 5)


def test_keys_walk_through_the_table_and_its_latents_in_its_order(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    opened.keyboard.press("/")
    opened.keyboard.type("rate>20%")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.textContent") == "9"
    opened.keyboard.press("j")
    opened.keyboard.press("j")
    opened.keyboard.press("k")
    assert opened.evaluate("document.activeElement.textContent") == "19"
    opened.keyboard.press("Enter")
    wait_for_latent(opened, 19)
    opened.keyboard.press("j")
    wait_for_latent(opened, 29)
    opened.keyboard.press("ArrowLeft")
    wait_for_latent(opened, 19)
    opened.keyboard.press("k")
    wait_for_latent(opened, 9)
    opened.keyboard.press("k")  # it is the first
    opened.keyboard.press("Escape")
    opened.wait_for_selector("#overview:not([hidden])")
    assert opened.input_value("#search") == "rate>20%"
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "search"
    opened.keyboard.press("Escape")
    assert opened.inner_text("#count") == "3,000 latents"


def test_the_search_is_one_key_away_from_a_latent(browser: Browser, page: Path) -> None:
    opened = browser.open(page, "#latent/3")
    wait_for_latent(opened, 3)
    opened.keyboard.press("/")
    opened.wait_for_selector("#search:focus")
    assert opened.locator("#detail").is_hidden()


def test_a_random_latent_is_one_of_the_table(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    search(opened, "norm>=1.999")
    seen = set()
    for _ in range(6):
        opened.locator("body").press("r") if seen else opened.click("#random")
        opened.wait_for_selector("#detail .parts:not([aria-busy])")
        seen.add(opened.title().removesuffix(" · my row"))
    assert seen <= {"Latent 2997", "Latent 2998", "Latent 2999"}


def test_help_opens_and_closes_by_key(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    opened.keyboard.press("?")
    assert opened.locator("#help").is_visible()
    opened.keyboard.press("Escape")
    assert opened.locator("#help").is_hidden()
    opened.click("#help-button")
    opened.click("#help button")
    assert opened.locator("#help").is_hidden()


def test_no_token_or_name_is_taken_for_markup(browser: Browser, tmp_path: Path) -> None:
    tokens = [
        {"token": number, "text": text, "active": 1, "rate": 0.5, "mean": 1.0} for number, text in enumerate(HOSTILE)
    ]
    file = of_one(tmp_path, ["</script><script>alert(3)</script>", "<b>bold</b>", None], top_tokens=tokens)
    opened = browser.open(file)
    opened.on("dialog", lambda dialog: browser.complaints.append(f"it ran: {dialog.message}"))
    assert "<script>alert(1)</script>" in opened.inner_text("#rows")
    assert "</script><script>alert(3)</script>" in opened.inner_text("#rows")
    opened.click("#rows a >> text='1'")
    wait_for_latent(opened, 1)
    text = opened.locator("#detail .text").first.text_content() or ""
    assert "<script>alert(1)</script></script><img src=x onerror=alert(2)>&amp;‹U+202E›gnp‹U+2028›" in text
    assert opened.inner_text("#detail .explained") == "<b>bold</b>"
    assert "docs/<script>1.py" in opened.inner_text("#detail .where >> nth=0")
    assert opened.locator("img, #detail b, #detail script").count() == 0


def test_text_keeps_its_whitespace_and_shows_its_ends_of_lines(browser: Browser, tmp_path: Path) -> None:
    opened = browser.open(of_one(tmp_path), "#latent/1")
    wait_for_latent(opened, 1)
    tokens = opened.locator("#detail .text").first.locator("span").all_text_contents()
    assert tokens[: len(WORDS) - len(HOSTILE)] == [
        {"\n": "↵\n", "\t": "→\t", "\x00": "‹U+0000›"}.get(word, word) for word in WORDS[: len(WORDS) - len(HOSTILE)]
    ]
    assert set(STRANGE) <= set(WORDS)
    white_space = opened.locator("#detail .text").first.evaluate("one => getComputedStyle(one).whiteSpace")
    assert white_space == "pre-wrap"


def test_tokens_are_colored_by_their_share_of_the_largest_activation(browser: Browser, tmp_path: Path) -> None:
    activations = [0.0] * len(WORDS)
    activations[:3] = [10.0, -5.0, 2.5]
    file = of_one(tmp_path, activations=activations, max_activation=10.0, signed=True, position=5)
    opened = browser.open(file, "#latent/1")
    wait_for_latent(opened, 1)
    first = opened.locator("#detail .text").first.locator("span")
    assert [first.nth(place).get_attribute("class") for place in range(4)] == ["hot peak", "cold", "hot", None]
    strength = [first.nth(place).evaluate("one => one.style.getPropertyValue('--share')") for place in range(3)]
    assert [float(share) for share in strength] == pytest.approx([1.0, 0.12 + 0.44, 0.12 + 0.22])
    first.nth(1).hover()
    assert opened.inner_text("#tip").split("\n") == ["␣of", "activation -5", "position 6", "token 1"]


def test_a_token_that_does_not_count_has_no_color(browser: Browser, tmp_path: Path) -> None:
    file = of_one(tmp_path, activations=[None, 3.0] + [0.0] * (len(WORDS) - 2))
    opened = browser.open(file, "#latent/1")
    wait_for_latent(opened, 1)
    first = opened.locator("#detail .text").first.locator("span")
    assert [first.nth(place).get_attribute("class") for place in range(2)] == [None, "hot peak"]


def test_the_pattern_of_a_lorsa_is_marked_and_what_lies_before_is_told(browser: Browser, tmp_path: Path) -> None:
    file = of_one(tmp_path, source_positions=[7, 2], source_weights=[0.6, 0.25])
    opened = browser.open(file, "#latent/1")
    wait_for_latent(opened, 1)
    marked = opened.locator("#detail .text").first.locator(".source")
    assert marked.all_text_contents() == ["def"]
    assert "also attends to position 2 (0.25)" in opened.inner_text("#detail .where >> nth=0")
    marked.hover()
    assert "attended 0.6" in opened.inner_text("#tip")


def test_a_crosscoders_shares_are_told_by_hook_point(browser: Browser, tmp_path: Path) -> None:
    places = tuple(Location(model=model, hook_point="blocks.0.hook_resid_post") for model in (0, 1))
    file = of_one(tmp_path, reads=places, writes=places, read_norms=[0.5, 0.5], write_norms=[0.25, 0.75])
    opened = browser.open(file, "#latent/1")
    wait_for_latent(opened, 1)
    part = opened.locator(".part", has=opened.locator("h2", has_text="Writes"))
    assert part.locator("li").all_inner_texts() == [
        "blocks.0.hook_resid_post of model 0\n25 %",
        "blocks.0.hook_resid_post of model 1\n75 %",
    ]


def test_a_dictionary_that_reaches_no_logits_has_no_column_for_them(browser: Browser, tmp_path: Path) -> None:
    nothing = {"promoted": None, "suppressed": None, "neighbors": None, "encoder_norm": None, "write_norms": None}
    latents = [latent(number, 3, **nothing) for number in range(3)]
    file = written(tmp_path / "page", write_measured(tmp_path / "measured", latents, contexts(2)))
    opened = browser.open(file)
    assert "promotes" not in opened.inner_text("#columns")
    assert "explanation" not in opened.inner_text("#columns")
    opened.click("#rows a >> text='2'")
    wait_for_latent(opened, 2)
    headings = " ".join(opened.locator("#detail h2").all_inner_texts())
    assert "Logits" not in headings
    assert "Neighbors" not in headings
    assert "encoder norm" not in opened.inner_text("#detail .facts")


def test_explanations_are_shown_searched_and_sorted_where_there_are_any(browser: Browser, tmp_path: Path) -> None:
    opened = browser.open(of_one(tmp_path, ["zebra stripes", None, "Calls of functions"]))
    assert search(opened, "calls") == "1 of 3 latents"
    assert search(opened, "explanation:zebra") == "1 of 3 latents"
    search(opened, "")
    opened.click("#columns .explanation button")
    assert numbers(opened) == ["2", "0", "1"]


def test_scores_of_explanations_are_shown_and_compared(browser: Browser, tmp_path: Path) -> None:
    told = [
        {"latent": 0, "explanation": "zebra stripes", "detection": 0.875, "fuzzing": None},
        {"latent": 2, "explanation": "Calls of functions", "detection": 0.5, "fuzzing": 0.25},
    ]
    rest = {"malformed": 0, "model": "m", "questions": 1, "seed": 0, "answered": "2026-01-01T00:00:00+00:00"}
    index = of_one(tmp_path)
    table = pa.Table.from_pylist([{**one, **rest} for one in told], schema=SCHEMA)
    write_page(tmp_path / "measured", index.parent, table)
    opened = browser.open(index)
    assert search(opened, "detection>0.6") == "1 of 3 latents"
    assert search(opened, "fuzzing<0.3") == "1 of 3 latents"
    search(opened, "")
    opened.click("#rows a >> text='2'")
    wait_for_latent(opened, 2)
    facts = opened.inner_text("#detail .facts")
    assert "detection" in facts
    assert "0.25" in facts
    assert opened.inner_text("#detail .explained") == "Calls of functions"
    opened.go_back()
    opened.click("#rows a >> text='0'")
    wait_for_latent(opened, 0)
    assert "fuzzing" not in opened.inner_text("#detail .facts")


def test_a_search_for_scores_where_there_are_none_keeps_nothing(browser: Browser, tmp_path: Path) -> None:
    opened = browser.open(of_one(tmp_path))
    assert search(opened, "detection>0") == "0 of 3 latents"


def test_a_dead_latent_says_that_it_is_one(browser: Browser, page: Path) -> None:
    opened = browser.open(page, "#latent/10")
    wait_for_latent(opened, 10)
    assert opened.inner_text("#detail .state") == "dead"
    assert "not active on any of the 10,000 tokens" in opened.inner_text("#detail .top")


def test_an_address_of_no_latent_is_told(browser: Browser, page: Path) -> None:
    opened = browser.open(page, "#latent/3000")
    assert opened.inner_text("#trouble") == "There is no latent 3000: they are 0 to 2999."
    opened.click("#rows a >> text='4'")
    wait_for_latent(opened, 4)
    assert opened.locator("#trouble").is_hidden()


def test_a_page_without_its_folder_says_what_is_missing(browser: Browser, page: Path, tmp_path: Path) -> None:
    shutil.copy(page, tmp_path)
    opened = browser.open(tmp_path / "index.html")
    opened.wait_for_selector("#trouble:not([hidden])")
    assert opened.inner_text("#trouble").startswith("data/latents.js cannot be read.")
    assert browser.complaints
    browser.forget()


def test_the_pages_policy_lets_nothing_reach_a_network(browser: Browser, page: Path) -> None:
    opened = browser.open(page)
    tried = """async () => {
      for (const [name, source] of [["img", "http://localhost:9/a.png"], ["script", "http://localhost:9/a.js"]]) {
        const made = document.createElement(name);
        made.src = source;
        document.body.append(made);
      }
      return fetch("http://localhost:9/").catch(error => error.name);
    }"""
    assert opened.evaluate(tried) == "TypeError"
    refused = " ".join(one for one in browser.complaints if "violates the following Content Security Policy" in one)
    browser.forget()
    assert all(f"localhost:9/{name}'" in refused for name in ("a.png", "a.js", ""))


@pytest.mark.parametrize("fragment", ["", "#latent/107"])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_phone(browser: Browser, page: Path, fragment: str, dark: bool) -> None:
    opened = browser.open(page, fragment, size=PHONE, dark=dark)
    opened.wait_for_selector("#detail .side .part" if fragment else "#rows a")
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    wide = """[...document.querySelectorAll("main *")].filter(one => one.getClientRects().length
      && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.className || one.tagName)"""
    assert opened.evaluate(wide) == []
