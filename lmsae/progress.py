"""Progress bars: tokens/s and time left on a terminal, silence elsewhere, and the same rates for provenance."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmsae.runtime import Runtime


@dataclass
class Progress:
    """Counts units of work done, and how long that took."""

    display: Any
    started: float = field(default_factory=time.perf_counter)
    done: int = 0

    def advance(self, count: int) -> None:
        """Say that `count` more units are done."""
        self.done += count
        self.display.update(count)

    def rates(self) -> dict[str, float]:
        """Seconds and units per second so far."""
        seconds = time.perf_counter() - self.started
        return {"seconds": round(seconds, 3), "per_second": round(self.done / max(seconds, 1e-9), 1)}


@contextlib.contextmanager
def bar(title: str, *, unit: str, total: int | None, runtime: Runtime) -> Iterator[Progress]:
    """A progress bar on stderr for the length of a `with` block, if that is a terminal or runtime.progress says so."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if runtime.progress is None else runtime.progress
    with tqdm(desc=title, unit=unit, total=total, unit_scale=True, disable=not shown, smoothing=0.1) as display:
        yield Progress(display)
