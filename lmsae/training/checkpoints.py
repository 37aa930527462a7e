"""Checkpoints of training: all that later steps depend on, so that a run that was killed ends in the same bytes.

A checkpoint is one file, `<step>-<digest>.pt`. It takes that name when it is whole and on the disk, never before, and
the digest of its bytes in the name tells one that was damaged later.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lmsae import __version__
from lmsae.artifact import digest_of_file
from lmsae.training.interruption import Interruption
from lmsae.training.run import Run

FORMAT = 1
KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""
DIGEST_DIGITS = 16
MOST_SHARE = 0.05
"""Of the time at most so much goes into checkpoints, however seldom that makes them."""


class Checkpoints:
    """The checkpoints of one run, in a folder of its own."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._folder, self._run = folder, run
        self._written = -1
        self._of_use: list[Path] = []

    def write(self) -> None:
        """Write the run as it is, unless that has been done. Of earlier checkpoints the newest of use stays."""
        if self._run.steps_done == self._written:
            return
        self._folder.mkdir(exist_ok=True)
        self._of_use = self._of_use[1 - KEPT :]
        for older in set(self._newest_first()).difference(self._of_use):
            older.unlink()
        draft = self._folder / ".draft"
        try:
            with open(draft, "wb") as file:
                torch.save({"made_by": _maker(self._run), "state": self._run.state()}, file)
                file.flush()
                os.fsync(file.fileno())
            path = self._folder / f"{self._run.steps_done:012}-{digest_of_file(draft)[:DIGEST_DIGITS]}.pt"
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._of_use.append(path)
        self._written = self._run.steps_done

    def restore(self) -> int:
        """Bring the run to where its newest whole checkpoint has it; returns the steps done, 0 without any.

        One is passed over, with a line on stderr, if its bytes are not those that were written or if it was made
        otherwise: by another run, another version of lmsae or torch, or in another format.
        """
        for path in self._newest_first():
            reason = "its bytes are not those that were written"
            if path.stem.partition("-")[2] == digest_of_file(path)[:DIGEST_DIGITS]:
                saved = torch.load(path, map_location=self._run.device, weights_only=True)
                reason = _difference(saved["made_by"], _maker(self._run))
                if not reason:
                    self._run.go_on_from(saved["state"])
                    self._of_use, self._written = [path], self._run.steps_done
                    return self._run.steps_done
            print(f"{path}: passed over: {reason}", file=sys.stderr)
        return 0

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("*.pt"), reverse=True)


class Keeper:
    """Writes checkpoints of the runs of a pass: every so many seconds, and when the pass is asked to stop."""

    def __init__(self, checkpoints: Mapping[Run, Checkpoints], seconds: float, interruption: Interruption) -> None:
        """`seconds` is the time between two rounds; 0 means after every step."""
        self._checkpoints, self._seconds, self._interruption = checkpoints, seconds, interruption
        self._last, self._cost = time.monotonic(), 0.0
        self._rounds, self._spent = 0, 0.0

    def after_step(self, runs: Sequence[Run]) -> None:
        """To be called after every step with the runs that go on. Ends the pass if somebody asked for that."""
        pause = self._seconds and max(self._seconds, self._cost / MOST_SHARE)
        if self._interruption.is_asked or time.monotonic() - self._last >= pause:
            self._write(runs)
        self._interruption.obey()

    def facts(self) -> dict[str, float]:
        """For provenance: how often checkpoints of the pass were written, and the seconds which that took."""
        return {"checkpoints": self._rounds, "checkpoint_s": round(self._spent, 3)}

    def _write(self, runs: Sequence[Run]) -> None:
        began = time.monotonic()
        try:
            for run in runs:
                self._checkpoints[run].write()
        except (OSError, RuntimeError) as error:  # torch says RuntimeError when a disk is full
            print(f"no checkpoint could be written; training goes on without: {error}", file=sys.stderr)
        self._last = time.monotonic()
        self._cost = self._last - began
        self._rounds += 1
        self._spent += self._cost


def _maker(run: Run) -> dict[str, Any]:
    """What must be the same for one process to go on where another stopped. The run's name holds its spec's key."""
    return {"format": FORMAT, "run": run.name, "lmsae": __version__, "torch": str(torch.__version__)}


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return ", ".join(_differences(found, wanted))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        if found.get(name) != value:
            yield f"it is of {name} {found.get(name)}, not {value}"
