"""Runtime: how to work, not what to make. No spec contains any of it.

On one kind of machine nothing here changes a byte. Another device, or another number of CPU threads, adds numbers in
another order, and so may change the last bits of the results.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.errors import ConfigError, Fault


class Wandb(Frozen):
    """Weights & Biases: a second home of the training curves. The artifacts hold them in any case."""

    mode: Literal["off", "online", "offline"] = Field(
        default="off", description="`offline` writes to ./wandb without a login."
    )
    project: str = Field(default="lmsae", description="W&B project that runs are logged to.")
    entity: str | None = Field(default=None, description="W&B user or team. Empty: your default.")


class Runtime(Frozen):
    """The `runtime:` section of config.yaml, and the flags of every command."""

    artifacts: Path = Field(default=Path("artifacts"), description="Folder of all artifacts.")
    also_look_in: tuple[Path, ...] = Field(
        default=(),
        description="Folders of artifacts of colleagues. What is finished there counts as made, and is read where it "
        "lies; nothing is written there.",
    )
    results: Path = Field(default=Path("results"), description="Folder that the report is written to.")
    device: str = Field(
        default="auto", description="`auto` (CUDA if there is one, otherwise the CPU), or a torch device name."
    )
    device_map: str | dict[str, int | str] | None = Field(
        default=None,
        description="Devices of a language model that is larger than one: `auto`, `balanced` or `sequential` as "
        "accelerate divides it, or module: device (`{model.embed_tokens: 0, model.layers: 1, lm_head: cpu}`). Empty: "
        "all of it is on `runtime.device`. Dictionaries are there in any case.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of a job. Empty: torch decides. The last bits of sums depend on it.",
    )
    together: int = Field(
        default=16, ge=1, description="Largest number of dictionaries that one pass of train or eval holds in memory."
    )
    checkpoint_seconds: float = Field(
        default=300,
        ge=0,
        description="Seconds between two checkpoints of a training pass. 0: a checkpoint after every step. If they are "
        "slow to write, there are fewer, so that they take at most a twentieth of the time.",
    )
    checkpoint_steps: int = Field(
        default=0, ge=0, description="Steps between two checkpoints, whatever the time between them. 0 is off."
    )
    keep_training_state: bool = Field(
        default=False,
        description="Keep the training state beside a finished dictionary, so that a run with more `train.tokens` can "
        "continue from it. The state is at least three times as large as the weights. `lmsae gc --states` removes it.",
    )
    time_limit: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a training pass writes a checkpoint and stops with exit code 124. Run again, "
        "it continues from there. SIGTERM and Ctrl-C do the same at any time.",
    )
    wait: bool = Field(
        default=False, description="Wait for an artifact that another process is making, instead of failing."
    )
    progress: bool | None = Field(
        default=None,
        description="Show progress bars, or nothing. Empty: a bar on a terminal and in Jupyter, elsewhere a line now "
        "and then.",
    )
    trust_remote_code: bool = Field(default=False, description="Let a model from a hub run its own code.")
    wandb: Wandb = Field(default_factory=Wandb, description="Weights & Biases.")

    def torch_device(self) -> str:
        """The device's name, with `auto` resolved. Raises ConfigError for a device that this machine has not."""
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            reason = str(error).splitlines()[0]
            raise ConfigError([Fault("runtime", None, "runtime.device", f"{self.device}: {reason}")]) from None
        return self.device
