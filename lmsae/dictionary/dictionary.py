"""The dictionary itself: it reads and writes raw activations, whatever units it was trained in."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmsae import geometry, sparsity
from lmsae.dictionary.config import DictionaryConfig
from lmsae.losses import Forward

WEIGHTS, CONFIG = "dictionary.safetensors", "dictionary.json"


class Dictionary(nn.Module):
    """Geometry and activation function, and the scales that take raw activations into the units of training.

    Weights stand in training's units, where x' = scale_in * x; `encode` and `decode` take and give raw activations.
    """

    scale_in: Tensor
    scale_out: Tensor

    def __init__(self, config: DictionaryConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry.build(config.geometry, config.d_in, config.d_out, config.d_sae)
        self.sparsity = sparsity.build(config.act_fn, config.d_sae)
        self.register_buffer("scale_in", torch.ones(()))
        self.register_buffer("scale_out", torch.ones(()))

    def set_scales(self, scale_in: float, scale_out: float) -> None:
        """Say in which units the weights stand: scaled = scale * raw."""
        self.scale_in.fill_(scale_in)
        self.scale_out.fill_(scale_out)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes of raw activations."""
        return self.sparsity(self.geometry.encode(x * self.scale_in))

    def decode(
        self, codes: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction, in raw activations."""
        return self.geometry.decode(codes, x * self.scale_in) / self.scale_out

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Raw activations to their reconstruction (of the target's hook point)."""
        return self.decode(self.encode(x), x)

    def training_pass(self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_out"]) -> Forward:
        """The forward pass that losses see, over activations that are already scaled."""
        pre = self.geometry.encode(x)
        codes = self.sparsity(pre)
        return Forward(x, target, pre, codes, self.geometry.decode(codes, x))

    def folded(self) -> "Dictionary":
        """A copy with the scales taken into the weights: same codes and outputs, scales 1."""
        copy = Dictionary(self.config).to(self.scale_in.device)
        copy.load_state_dict(self.state_dict())
        copy.geometry.fold(self.scale_in.item(), self.scale_out.item())
        copy.set_scales(1.0, 1.0)
        return copy.train(self.training)

    def save(self, folder: Path) -> None:
        """Write `dictionary.json` (its config) and `dictionary.safetensors` (weights, statistics and scales)."""
        (folder / CONFIG).write_text(json.dumps(self.config.model_dump(mode="json"), indent=1) + "\n")
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS
        )

    @classmethod
    def load(cls, folder: Path | str) -> "Dictionary":
        """The dictionary saved in a folder, on the CPU, ready for inference."""
        config = DictionaryConfig.model_validate_json((Path(folder) / CONFIG).read_text())
        dictionary = cls(config)
        dictionary.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return dictionary.eval().requires_grad_(False)
