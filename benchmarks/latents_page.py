"""How fast the page of a large dictionary's latents is: writing it, opening it, sorting, searching.

    python benchmarks/latents_page.py > benchmarks/results/WHEN-WHERE-latents-page.md

The payload is made up, with the sizes of a real one. The page is opened in Chromium from disk. Times of sorts and
searches are of the page's own work until its rows are laid out; all are medians of five.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

from lmsae.interpretation.rendering import write_page
from tests.browser import start_browser
from tests.interpretation.measured import contexts, latent, write_measured

TEXT = ["def", " f", "(", "x", ")", ":", "\n", "    ", "return", " x", ".", "mean", "()", " +", " 1", "\n"] * 2
SEARCHES = ("def", "top:return", "rate>1% norm<1.5", "12345")

STEPS = {
    "sort by norm, first time": "document.querySelector('#columns .decoder_norm button').click()",
    "sort by top token, first time": "document.querySelector('#columns .top_tokens button').click()",
    "sort by norm, again": "document.querySelector('#columns .decoder_norm button').click()",
    "choose the dense": "const s = document.getElementById('state'); s.value = 'dense'; "
    "s.dispatchEvent(new Event('change')); s.value = 'all'; s.dispatchEvent(new Event('change'))",
    **{
        f"search `{text}`": f"const s = document.getElementById('search'); s.value = {text!r}; "
        "s.dispatchEvent(new Event('input'))"
        for text in SEARCHES
    },
}
TIMED = "() => {{ const begun = performance.now(); {}; document.body.offsetHeight; return performance.now() - begun; }}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--pieces", type=int, default=4, help="pieces of text of each kind")
    arguments = parser.parse_args()
    count = arguments.latents
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "page"
        out.mkdir()
        pieces = (piece for number in range(count) for piece in contexts(number, TEXT, arguments.pieces))
        measured = write_measured(folder / "measured", [latent(number, count) for number in range(count)], pieces)
        begun = time.perf_counter()
        write_page(measured, out)
        written = time.perf_counter() - begun
        sizes = [file.stat().st_size for file in (out / "data").iterdir()]
        table = (out / "data" / "latents.js").stat().st_size
        times = {step: [] for step in ["open the page", *STEPS, "open a latent"]}
        with start_browser() as browser:
            for turn in range(5):
                begun = time.perf_counter()
                page = browser.open(out / "index.html")
                page.wait_for_selector("#rows a")
                times["open the page"].append(1000 * (time.perf_counter() - begun))
                for step, code in STEPS.items():
                    times[step].append(page.evaluate(TIMED.format(code)))
                begun = time.perf_counter()
                page.evaluate(f"location.hash = '#latent/{turn * 9999 % count}'")
                page.wait_for_selector("#detail .parts:not([aria-busy])")
                times["open a latent"].append(1000 * (time.perf_counter() - begun))
                browser.forget()
    print(f"{count:,} latents, {platform.processor() or platform.machine()}: {len(sizes):,} files, ", end="")
    print(f"{sum(sizes) / 1e6:,.0f} MB; latents.js {table / 1e6:.1f} MB; written in {written:.1f} s\n")
    print("| step | ms |\n|---|---|")
    for step, found in times.items():
        print(f"| {step} | {statistics.median(found):.0f} |")


if __name__ == "__main__":
    main()
