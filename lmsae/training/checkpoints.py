"""Checkpoints of training: all that later steps depend on, so that a run that was killed ends in the same bytes.

A checkpoint is one file, `<step>-<digest>.pt`. It takes that name when it is whole and on the disk, never before, and
the digest of its bytes in the name tells one that was damaged later.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from lmsae.artifacts.artifact import digest_of_file
from lmsae.runtime.drafts import DRAFT, name_draft
from lmsae.runtime.version import __version__
from lmsae.training.interruption import Interruption
from lmsae.training.run import Run

FORMAT = 2
KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""
DIGEST_DIGITS = 16
MOST_SHARE = 0.05
"""At most this share of the time goes into checkpoints, however seldom that makes them."""


class Checkpoints:
    """The checkpoints of one run, in a folder of its own."""

    def __init__(
        self, folder: Path, run: Run, keeps: int = 0, require_claim: Callable[[], None] = lambda: None
    ) -> None:
        """The checkpoint of step `keeps`, if there is such a step, stays when the run has finished. `require_claim`
        raises an error if the folder is another process's by now; it is asked before anything is written."""
        self._folder, self._run, self._keeps, self._require_claim = folder, run, keeps, require_claim
        self._written = -1
        self._of_use: list[Path] = []
        self.taken: Path | None = None
        """The checkpoint that the run was brought to."""

    def write(self) -> None:
        """Write the run as it is, unless that has been done. Of the earlier checkpoints the newest good one stays."""
        if self._run.steps_done == self._written:
            return
        self._require_claim()
        self._folder.mkdir(exist_ok=True)
        self._of_use = self._of_use[1 - KEPT :]
        for older in set(self._list_newest_first()).difference(self._of_use):
            if _read_step(older) != self._keeps:
                older.unlink()
        for left in self._folder.glob(f".*{DRAFT}"):
            left.unlink()  # by a process that was killed; it may be large
        draft = name_draft(self._folder / f"{self._run.steps_done:012}")
        try:
            with open(draft, "wb") as file:
                torch.save({"made_by": _describe_maker(self._run), "state": self._run.state()}, file)
                file.flush()
                os.fsync(file.fileno())
            path = self._folder / f"{self._run.steps_done:012}-{digest_of_file(draft)[:DIGEST_DIGITS]}.pt"
            self._require_claim()
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
        for path in self._list_newest_first():
            if self._take_over(path, self._run.name):
                self._of_use, self._written = [path], self._run.steps_done
                return self._run.steps_done
        return 0

    def go_on_from(self, folder: Path, name: str, most_steps: int) -> int:
        """Bring the run to where a shorter one called `name` was, by the newest whole checkpoint in its `folder` of at
        most so many steps; returns the steps done, 0 without any."""
        for path in _list_newest_first(folder):
            with suppress(FileNotFoundError):  # the shorter run is still at work, and has a newer one
                if _read_step(path) <= most_steps and self._take_over(path, name):
                    return self._run.steps_done
        return 0

    def finish(self) -> None:
        """Remove all checkpoints but the one to keep."""
        self._require_claim()
        kept = {path for path in self._list_newest_first() if _read_step(path) == self._keeps}
        if self._folder.exists():
            for path in set(self._folder.iterdir()) - kept:
                path.unlink()
        if self._folder.exists() and not kept:
            self._folder.rmdir()

    @property
    def is_due(self) -> bool:
        """True if the run stands where its checkpoint is to be kept."""
        return self._run.steps_done == self._keeps

    def _take_over(self, path: Path, name: str) -> bool:
        """Bring the run to a checkpoint of the run `name`, or tell why that cannot be."""
        reason = "its bytes are not those that were written"
        if path.stem.partition("-")[2] == digest_of_file(path)[:DIGEST_DIGITS]:
            saved = torch.load(path, map_location=self._run.device_of_states, weights_only=True)
            reason = _tell_differences(saved["made_by"], {**_describe_maker(self._run), "run": name})
            if not reason and self._run.onlooker:
                state = saved["state"]
                reason = self._run.onlooker.take_over(state["onlooker"], state["steps_done"], path.parent.parent)
            if not reason:
                self._run.go_on_from(saved["state"])
                self.taken = path
                return True
        print(f"{path}: passed over: {reason}", file=sys.stderr)
        return False

    def _list_newest_first(self) -> list[Path]:
        return _list_newest_first(self._folder)


class Keeper:
    """Writes checkpoints of the runs of a pass: every so many seconds, and when the pass is asked to stop."""

    def __init__(
        self, checkpoints: Mapping[Run, Checkpoints], seconds: float, interruption: Interruption, steps: int = 0
    ) -> None:
        """`seconds` is the time between two rounds, 0 means after every step; `steps` are the steps between two, and 0
        means that they do not count."""
        self._checkpoints, self._seconds, self._interruption = checkpoints, seconds, interruption
        self._steps = steps
        self._active: Sequence[Run] = list(checkpoints)
        self._last, self._cost = time.monotonic(), 0.0
        self._rounds, self._spent = 0, 0.0

    def after_step(self, runs: Sequence[Run]) -> None:
        """To be called after every step with the runs that go on. Ends the pass if somebody asked for that."""
        self._active = runs
        if due := self.find_due(runs):
            self.write(due)
        self._interruption.obey()

    @property
    def is_asked_to_stop(self) -> bool:
        """True if somebody asked to stop as soon as checkpoints are written."""
        return self._interruption.is_asked

    def find_due(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Those of the runs whose checkpoint is to be written now."""
        pause = self._seconds and max(self._seconds, self._cost / MOST_SHARE)
        if self._interruption.is_asked or time.monotonic() - self._last >= pause:
            return runs
        return [run for run in runs if self._is_due(run)]

    def _is_due(self, run: Run) -> bool:
        by_step = bool(self._steps) and run.steps_done % self._steps == 0
        return by_step or self._checkpoints[run].is_due

    def while_waiting(self) -> None:
        """To be called now and then while the next batch is made, which can take long. Ends the pass if asked to."""
        if self._interruption.is_asked:
            self.after_step(self._active)

    def facts(self) -> dict[str, float]:
        """For provenance: how often checkpoints of the pass were written, and the seconds which that took."""
        return {"checkpoints": self._rounds, "checkpoint_s": round(self._spent, 3)}

    def write(self, runs: Sequence[Run]) -> None:
        """Write the checkpoints of runs. Where that cannot be, a line on stderr says why, and training goes on."""
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


def _list_newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.pt"), reverse=True)


def _read_step(path: Path) -> int:
    """The steps done, by the name of a checkpoint's file."""
    return int(path.stem.partition("-")[0])


def _describe_maker(run: Run) -> dict[str, object]:
    """The facts that must agree for a process to go on where another stopped. The run's name holds its spec's key."""
    return {"format": FORMAT, "run": run.name, "lmsae": __version__, "torch": str(torch.__version__)}


def _tell_differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    return ", ".join(_list_differences(found, wanted))


def _list_differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    for name, value in wanted.items():
        if found.get(name) != value:
            yield f"it is of {name} {found.get(name)}, not {value}"
