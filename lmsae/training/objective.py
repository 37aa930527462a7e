"""The objective: what training adds to a dictionary."""

from lmsae.config import Frozen
from lmsae.losses import LossConfig


class Objective(Frozen):
    """What training adds to a dictionary: losses beside reconstruction, a constraint on the decoder, and what becomes
    of it at the end."""

    losses: tuple[LossConfig, ...]
    unit_norm_decoder: bool
    convert_to_jumprelu: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether a loss asks for the language model at every step."""
        return any("model" in loss.needs for loss in self.losses)
