"""Runtime: how to work. Nothing here may change a byte of an artifact, and no spec contains any of it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lmsae.config import Frozen


class Wandb(Frozen):
    """Weights & Biases: a second place to look at training curves; the artifacts hold them all the same."""

    mode: Literal["off", "online", "offline"] = Field("off", description="`offline` writes to ./wandb without a login.")
    project: str = Field("lmsae", description="W&B project that runs are logged to.")
    entity: str | None = Field(None, description="W&B user or team; empty means your default.")


class Runtime(Frozen):
    """The `runtime:` section of config.yaml, and the flags of every command."""

    artifacts: Path = Field(Path("artifacts"), description="Folder of all artifacts.")
    results: Path = Field(Path("results"), description="Folder that the report is written to.")
    device: str = Field("auto", description="`auto` (CUDA if there is one, else CPU), or a torch device name.")
    threads: int | None = Field(None, ge=1, description="CPU threads of a job; empty lets torch decide.")
    together: int = Field(16, ge=1, description="At most so many dictionaries are trained in one pass over the data.")
    wait: bool = Field(False, description="Wait for an artifact that another process is making, instead of failing.")
    progress: bool | None = Field(None, description="Progress bars; empty means only on a terminal.")
    trust_remote_code: bool = Field(False, description="Let a model from a hub run code of its own. Off unless you say so.")
    wandb: Wandb = Field(default_factory=Wandb, description="Weights & Biases.")

    def torch_device(self) -> str:
        """The device's name, with `auto` resolved."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
