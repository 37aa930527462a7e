"""Checkpoints of a run over several processes: the first decides when, all gather the state, and the first writes."""

from collections.abc import Sequence

from lmsae.training.checkpoints import Keeper
from lmsae.training.run import Run
from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_run import ShardedRun

GO_ON, WRITE, STOP = range(3)


class Stopped(Exception):
    """Training was asked to stop; the checkpoint is written."""


class ShardedKeeper:
    """A Keeper whose decisions are those of the first process, in all of them."""

    def __init__(self, keeper: Keeper | None, processes: Processes) -> None:
        """`keeper` is that of the first process; others have none."""
        self._keeper, self._processes = keeper, processes

    def after_step(self, runs: Sequence[Run]) -> None:
        """To be called after every step, in all processes, with the runs that go on. Raises Stopped, in all of them, if
        somebody asked to stop."""
        for run in runs:
            assert isinstance(run, ShardedRun)
            decision = self._processes.tell(self._decide(self._keeper, runs) if self._keeper else GO_ON)
            if decision == GO_ON:
                continue
            run.gather_state()
            if self._keeper:
                self._keeper.write(runs)
                run.drop_state()
            if decision == STOP:
                raise Stopped

    def _decide(self, keeper: Keeper, runs: Sequence[Run]) -> int:
        if keeper.is_asked_to_stop:
            return STOP
        return WRITE if keeper.find_due(runs) else GO_ON
