"""train_together: many dictionaries over one stream of activations; company never changes a result."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from lmsae.errors import TrainingError
from lmsae.training.batch import Batch, move_to_device
from lmsae.training.run import Run


class BrokenRuns(TrainingError):
    """Some runs of a pass broke down, and the others have finished."""

    def __init__(self, errors: Mapping[Run, Exception]) -> None:
        self.errors = dict(errors)
        super().__init__("\n".join(str(error) for error in errors.values()))


class Stream(Protocol):
    """The source of batches."""

    def batches(self, start_step: int, stop_step: int) -> Iterable[Batch]:
        """The batches of steps start_step to stop_step, on the CPU."""
        ...


def train_together(
    runs: Sequence[Run],
    stream: Stream,
    device: str,
    advance: Callable[[int], None],
    after_step: Callable[[Sequence[Run]], None] = lambda active: None,
) -> Iterator[Run]:
    """Train all runs in one pass over the data; yields each run when it has finished.

    Runs share batches and nothing else; each goes on from the steps that it has done, and lets earlier batches pass.
    One that breaks down, for whatever reason, leaves the others alone: after they have finished, BrokenRuns is raised.
    A run's log is closed when its caller asks for the next one.
    `advance` is told the tokens of each batch, and `after_step` which runs go on.
    """
    active, broken = list(runs), dict[Run, Exception]()
    first, last = min(run.steps_done for run in runs), max(run.config.steps for run in runs)
    for step, batch in enumerate(move_to_device(stream.batches(first, last), device), first):
        finished = []
        for run in [run for run in active if run.steps_done == step]:
            try:
                run.step(batch)
            except Exception as error:
                broken[run] = error
                active.remove(run)
                run.close()
                continue
            if run.is_finished:
                active.remove(run)
                finished.append(run)
        advance(batch.tokens)
        for run in finished:
            try:
                yield run
            finally:
                run.close()
        after_step(active)
        if not active:
            break
    if broken:
        raise BrokenRuns(broken)
