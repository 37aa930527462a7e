"""Progress: a bar where somebody looks, a line now and then in a log, and the cost for provenance."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lmsae.runtime.numbers import format_count, format_duration, format_share
from lmsae.runtime.runtime import Runtime

FIRST_LINE_S, LONGEST_PAUSE_S, PAUSE_SHARE = 10.0, 300.0, 0.5
"""Seconds until the first line of a log, and the longest pause after a line, which is a share of the time gone by."""
BAR_PAUSE_S = 0.5
"""Seconds between two descriptions in a bar."""


class Display(Protocol):
    """The place where people see the work go on."""

    def update(self, count: int) -> object:
        """Count more units as done."""
        ...

    def say(self, line: str) -> None:
        """Show a line."""
        ...


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

    def say(self, lines: Iterable[str]) -> None:
        """Show lines where people see the work go on."""
        for line in lines:
            self.display.say(line)

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


@dataclass
class Nowhere:
    """A display that nobody sees."""

    def update(self, count: int) -> None:
        del count

    def say(self, line: str) -> None:
        del line


@dataclass
class Log:
    """A display of lines on stderr: how far the work is, how fast, how long yet, and what `describe` says of it."""

    title: str
    unit: str
    total: int | None
    describe: Callable[[], str]
    clock: Callable[[], float] = time.perf_counter
    done: int = 0

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.due = self.started + FIRST_LINE_S

    def update(self, count: int) -> None:
        self.done += count
        now = self.clock()
        if now >= self.due:
            gone = now - self.started
            self.due = now + min(max(PAUSE_SHARE * gone, FIRST_LINE_S), LONGEST_PAUSE_S)
            self.say("; ".join(filter(None, (self._tell(gone), self.describe()))))

    def say(self, line: str) -> None:
        print(f"{self.title}: {line}", file=sys.stderr)

    def _tell(self, gone: float) -> str:
        rate = self.done / gone
        fast = f"{format_count(rate)} {self.unit}s/s"
        if not self.total:
            return f"{format_count(self.done)} {self.unit}s, {fast}"
        left = format_duration((self.total - self.done) / rate)
        far = f"{format_count(self.done)} of {format_count(self.total)} {self.unit}s"
        return f"{format_share(self.done / self.total)}, {far}, {fast}, {left} to go"


class Bar:
    """A display of tqdm's on stderr, with what `describe` says behind it."""

    def __init__(self, title: str, unit: str, total: int | None, describe: Callable[[], str]) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=title, unit=unit, total=total, unit_scale=True, smoothing=0.1)
        self._describe, self._due = describe, 0.0

    def update(self, count: int) -> None:
        if (now := time.perf_counter()) >= self._due:
            self._due = now + BAR_PAUSE_S
            self._bar.set_postfix_str(self._describe(), refresh=False)
        self._bar.update(count)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(f"{self._bar.desc}: {line}", file=sys.stderr)

    def close(self) -> None:
        self._bar.set_postfix_str(self._describe())
        self._bar.close()


@contextlib.contextmanager
def show_progress(
    title: str, *, unit: str, total: int | None, runtime: Runtime, describe: Callable[[], str] = lambda: ""
) -> Iterator[ProgressBar]:
    """Progress on stderr for the length of a `with` block, with what `describe` says of the work at that moment.

    A bar on a terminal and in Jupyter, and lines elsewhere; runtime.progress asks for bars or silence everywhere.
    """
    if runtime.progress is False:
        yield ProgressBar(Nowhere())
    elif runtime.progress or sys.stderr.isatty() or _is_in_jupyter():
        with contextlib.closing(Bar(title, unit, total, describe)) as bar:
            yield ProgressBar(bar)
    else:
        yield ProgressBar(Log(title, unit, total, describe))


def _is_in_jupyter() -> bool:
    """True in a notebook's kernel, whose stderr is no terminal but shows a bar as one does."""
    return type(sys.stderr).__module__.partition(".")[0] == "ipykernel"
