"""lmsae: sparse autoencoders and their relatives, as a workflow with content-addressed artifacts."""

import os
from typing import TYPE_CHECKING, Any

from lmsae.runtime.version import __version__

if TYPE_CHECKING:
    from lmsae.application.loaded import LoadedDictionary
    from lmsae.application.named import load
    from lmsae.application.replacement import splice
    from lmsae.application.streaming import activations
    from lmsae.application.strongest import top_latents
    from lmsae.experiment import Experiments, features, run, sweep
    from lmsae.vectors.storing import store_activations

# After each of its loops, GNU OpenMP's threads spin for milliseconds, and what else wants their cores waits: a process
# beside this one, or a thread of our own. This is what it takes itself where there are more threads than cores; it is
# read when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_SHOWN = {
    "Experiments": "lmsae.experiment",
    "LoadedDictionary": "lmsae.application.loaded",
    "activations": "lmsae.application.streaming",
    "features": "lmsae.experiment",
    "load": "lmsae.application.named",
    "run": "lmsae.experiment",
    "splice": "lmsae.application.replacement",
    "store_activations": "lmsae.vectors.storing",
    "sweep": "lmsae.experiment",
    "top_latents": "lmsae.application.strongest",
}
"""The modules of the names that are imported when they are asked for: `import lmsae` stays instant."""
__all__ = [
    "Experiments",
    "LoadedDictionary",
    "__version__",
    "activations",
    "features",
    "load",
    "run",
    "splice",
    "store_activations",
    "sweep",
    "top_latents",
]


def __getattr__(name: str) -> Any:
    """`lmsae.run` and the like."""
    if name in _SHOWN:
        from importlib import import_module

        return getattr(import_module(_SHOWN[name]), name)
    raise AttributeError(f"module 'lmsae' has no attribute {name!r}")
