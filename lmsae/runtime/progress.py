"""Progress bars: tokens a second and time left on a terminal, silence elsewhere, and the cost for provenance."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lmsae.runtime.runtime import Runtime


class Display(Protocol):
    """The bar on the terminal, such as tqdm's."""

    def update(self, n: float | None = 1) -> object: ...


@dataclass
class ProgressBar:
    """Counts the units of work done, and the time that they took.

    `waited_s` are the seconds of it that went by in waiting for data, if they are known.
    """

    display: Display
    started: float = field(default_factory=time.perf_counter)
    done: int = 0
    waited_s: float | None = None

    def advance(self, count: int) -> None:
        """Count `count` more units as done."""
        self.done += count
        self.display.update(count)

    def facts(
        self, in_pass: int = 1, flops: float | None = None, pass_flops: float | None = None
    ) -> dict[str, float | None]:
        """The cost of a pass so far, for provenance (docs/artifacts.md).

        The pass makes `in_pass` artifacts. This one took `flops` of the `pass_flops` operations of them all; None means
        that no formula gives them.
        """
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
def show_progress(title: str, *, unit: str, total: int | None, runtime: Runtime) -> Iterator[ProgressBar]:
    """A progress bar on stderr for the length of a `with` block, if that is a terminal or runtime.progress says so."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if runtime.progress is None else runtime.progress
    with tqdm(desc=title, unit=unit, total=total, unit_scale=True, disable=not shown, smoothing=0.1) as display:
        yield ProgressBar(display)
