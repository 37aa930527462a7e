"""Progress bars: tokens/s and time left on a terminal, silence elsewhere, and what the work cost for provenance."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmsae.runtime.runtime import Runtime


@dataclass
class Progress:
    """Counts units of work done, and how long that took; `waited_s` of it went by in waiting for data, if known."""

    display: Any
    started: float = field(default_factory=time.perf_counter)
    done: int = 0
    waited_s: float | None = None

    def advance(self, count: int) -> None:
        """Say that `count` more units are done."""
        self.done += count
        self.display.update(count)

    def facts(self, in_pass: int = 1, flops: float | None = None, pass_flops: float | None = None) -> dict[str, Any]:
        """What a pass has cost so far, for provenance (docs/artifacts.md): one of `in_pass` artifacts, which took
        `flops` of the `pass_flops` operations done; None where there is no formula for them."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "tokens": self.done,
            "tokens_per_second": round(self.done / seconds, 1),
            "waited_s": None if self.waited_s is None else round(self.waited_s, 3),
            "flops": flops,
            "flops_per_second": pass_flops and round(pass_flops / seconds),
            "in_pass": in_pass,
        }


@contextlib.contextmanager
def bar(title: str, *, unit: str, total: int | None, runtime: Runtime) -> Iterator[Progress]:
    """A progress bar on stderr for the length of a `with` block, if that is a terminal or runtime.progress says so."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if runtime.progress is None else runtime.progress
    with tqdm(desc=title, unit=unit, total=total, unit_scale=True, disable=not shown, smoothing=0.1) as display:
        yield Progress(display)
