"""lmsae: sparse autoencoders and their relatives, as a workflow with content-addressed artifacts."""

import os
from typing import TYPE_CHECKING, Any

from lmsae.runtime.version import __version__

if TYPE_CHECKING:
    from lmsae.experiment import Experiment, Experiments, features, run, sweep
    from lmsae.vectors.storing import store_activations

# After each of its loops, GNU OpenMP's threads spin for milliseconds, and what else wants their cores waits: a process
# beside this one, or a thread of our own. This is what it takes itself where there are more threads than cores; it is
# read when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["Experiment", "Experiments", "__version__", "features", "run", "store_activations", "sweep"]


def __getattr__(name: str) -> Any:
    """`lmsae.run` and the like, imported when they are asked for: `import lmsae` stays instant."""
    if name == "store_activations":
        from lmsae.vectors.storing import store_activations

        return store_activations
    if name in __all__:
        from lmsae import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'lmsae' has no attribute {name!r}")
