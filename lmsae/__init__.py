"""lmsae: sparse autoencoders and their relatives, as a workflow with content-addressed artifacts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmsae.experiment import Experiment, run

__version__ = "0.1.0"
__all__ = ["Experiment", "run"]


def __getattr__(name: str) -> Any:
    """`lmsae.run` and `lmsae.Experiment`, imported when they are asked for: `import lmsae` stays instant."""
    if name in __all__:
        from lmsae import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'lmsae' has no attribute {name!r}")
