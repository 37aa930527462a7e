"""train_together: many dictionaries over one stream of activations; company never changes a result."""

from collections.abc import Callable, Iterator, Sequence

from lmsae.errors import TrainingError
from lmsae.store.batches import ShuffledBatches
from lmsae.training.run import Run


def train_together(
    runs: Sequence[Run], batches: ShuffledBatches, device: str, advance: Callable[[int], None]
) -> Iterator[Run]:
    """Train all runs in one pass over the data; yields each run when it has finished.

    Runs share batches and nothing else. One that breaks down leaves the others alone: its TrainingError is raised
    after they have finished.
    """
    active, broken = list(runs), []
    for (activations,) in batches.batches(0, max(run.config.steps for run in runs)):
        x = activations.to(device)
        for run in list(active):
            try:
                run.step(x)
            except TrainingError as error:
                broken.append(error)
                active.remove(run)
                run.close()
                continue
            if run.is_finished:
                active.remove(run)
                run.close()
                yield run
        advance(len(x))
        if not active:
            break
    if broken:
        raise TrainingError("\n".join(str(error) for error in broken))
