"""The objective of training: losses, and what else training adds to a dictionary."""

from lmsae.config import Frozen
from lmsae.losses import LossConfig


class Objective(Frozen):
    """Losses beside reconstruction, a constraint on the decoder, and the conversion at the end."""

    losses: tuple[LossConfig, ...]
    unit_norm_decoder: bool
    convert_to_jumprelu: bool = False

    @property
    def needs_model(self) -> bool:
        """True if a loss asks for the language model at every step."""
        return any(loss.needs_model for loss in self.losses)
