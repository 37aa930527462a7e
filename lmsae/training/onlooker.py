"""Onlooker: what looks at a run between two steps, such as evaluations on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lmsae.runtime.wandb_log import Counts
    from lmsae.training.run import Run


class Onlooker(Protocol):
    """It sees a run after every step but the last, and changes nothing of it. What it has found goes into checkpoints,
    so that a run that is resumed has all of it."""

    @property
    def points(self) -> Sequence[Mapping[str, float | Counts]]:
        """The findings so far, as points for the run's log; `step` is that of the curves."""
        ...

    def look(self, run: Run) -> None:
        """Look at a run that has done a step and goes on."""
        ...

    def state(self) -> dict[str, Any]:
        """All that it has found: numbers, texts, lists and dicts by name."""
        ...

    def take_over(self, state: dict[str, Any] | None, steps: int, folder: Path) -> str:
        """Take over what was found in the first `steps` steps of a run whose files are in `folder`.

        Returns what is wanted of those steps and not there, empty if nothing is.
        """
        ...
