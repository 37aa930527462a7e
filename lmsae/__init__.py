"""lmsae: sparse autoencoders and their relatives, as a workflow with content-addressed artifacts."""

import os
from typing import TYPE_CHECKING, Any

from lmsae.runtime.version import __version__

if TYPE_CHECKING:
    from lmsae.experiment import Experiment, features, run

# After each of its loops, GNU OpenMP's threads spin for milliseconds, and what else wants their cores waits: a process
# beside this one, or a thread of our own. This is what it takes itself where there are more threads than cores; it is
# read when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["Experiment", "__version__", "features", "run"]


def __getattr__(name: str) -> Any:
    """`lmsae.run` and the like, imported when they are asked for: `import lmsae` stays instant."""
    if name in ("Experiment", "features", "run"):
        from lmsae import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'lmsae' has no attribute {name!r}")
