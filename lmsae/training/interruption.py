"""Requests to stop: by Ctrl-C, by a scheduler's SIGTERM, or by a time limit."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

TIMED_OUT = 124
"""The exit code of a time limit, as timeout(1) has it."""
STOPPED = "run it again to go on"
"""The end of what is said of work that was stopped and can go on."""


class Interruption:
    """A request to stop, once there is one. The work at hand goes on until it calls `obey`."""

    def __init__(self, time_limit: float | None = None) -> None:
        """`time_limit` is in seconds from now; None is no limit."""
        self._signal: int | None = None
        self._deadline = None if time_limit is None else time.monotonic() + time_limit

    @property
    def is_asked(self) -> bool:
        """True if the work should stop as soon as it can."""
        return self._signal is not None or self._is_late

    @property
    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: remember it. A second one has its usual effect."""
        del frame
        self._signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def obey(self) -> None:
        """Stop, if asked to: KeyboardInterrupt for Ctrl-C, else SystemExit with the usual code, 143 or 124."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            print(f"stopped by {signal.Signals(self._signal).name}; {STOPPED}", file=sys.stderr)
            raise SystemExit(128 + self._signal)
        if self._is_late:
            print(f"stopped at runtime.time_limit; {STOPPED}", file=sys.stderr)
            raise SystemExit(TIMED_OUT)


@contextlib.contextmanager
def hear_interruptions(time_limit: float | None) -> Iterator[Interruption]:
    """SIGTERM and SIGINT only ask to stop within this block. A request that nobody has obeyed is obeyed at its end.

    Outside the main thread, where Python cannot set handlers, signals are left as they are.
    """
    interruption = Interruption(time_limit)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, interruption.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    interruption.obey()
