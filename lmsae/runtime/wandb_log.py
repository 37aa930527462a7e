"""Weights & Biases, for those who want their training curves there as well."""

from lmsae.config import JsonObject
from lmsae.runtime.runtime import Runtime


class CurvesLogger:
    """Sends curve points to one W&B run."""

    def __init__(self, name: str, config: JsonObject, runtime: Runtime) -> None:
        import wandb

        mode = runtime.wandb.mode
        assert mode != "off", "curves_logger makes none then"
        self._run = wandb.init(
            project=runtime.wandb.project,
            entity=runtime.wandb.entity,
            mode=mode,
            name=name,
            config=config,
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    def __call__(self, point: dict[str, float]) -> None:
        self._run.log(point, step=int(point["step"]))

    def finish(self) -> None:
        """Send what is left, and close the run."""
        self._run.finish()


def curves_logger(name: str, config: JsonObject, runtime: Runtime) -> CurvesLogger | None:
    """The logger of one dictionary's curves, or None while `runtime.wandb.mode` is off."""
    return None if runtime.wandb.mode == "off" else CurvesLogger(name, config, runtime)
