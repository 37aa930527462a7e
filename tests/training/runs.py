"""Runs in tests: training them, and a look at what they hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lmsae.training.batch import Batch
from lmsae.training.run import Run
from lmsae.training.together import train_together


@dataclass(frozen=True)
class Stream:
    """The given batches, over and over."""

    given: list[Batch]

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        for step in range(start_step, stop_step):
            yield self.given[step % len(self.given)]


def learn(run: Run, batches: list[Batch]) -> Run:
    """Train a run to its end on batches taken in turn."""
    while not run.is_finished:
        run.step(batches[run.steps_done % len(batches)])
    return run


def weights(run: Run) -> dict[str, Tensor]:
    """A copy of everything that a run's dictionary would save."""
    return {name: value.clone() for name, value in run.dictionary.state_dict().items()}


def train(runs: list[Run], batches: list[Batch]) -> list[Run]:
    """Train runs together; those that have finished, in that order."""
    return list(train_together(runs, Stream(batches), "cpu", lambda tokens: None))


def saved(run: Run, folder: Path) -> dict[str, bytes]:
    """All that a run leaves on disk."""
    folder.mkdir(exist_ok=True)
    run.dictionary.save(folder)
    run.write_curves(folder / "curves.csv")
    return {file.name: file.read_bytes() for file in folder.iterdir()}
