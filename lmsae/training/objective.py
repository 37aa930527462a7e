"""The objective of training: losses, and what else training adds to a dictionary."""

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import GeometryBase
from lmsae.losses import LossConfig
from lmsae.training.config import TrainConfig


class Objective(Frozen):
    """Losses beside reconstruction, a constraint on the decoder, and the conversion of the trained dictionary."""

    losses: tuple[LossConfig, ...]
    unit_norm_decoder: bool
    convert_to_jumprelu: bool = False

    @property
    def needs_model(self) -> bool:
        """True if a loss asks for the language model at every step."""
        return any(loss.needs_model for loss in self.losses)


class Learning(TrainConfig):
    """A dictionary, and all that determines what it learns from a stream of batches."""

    dictionary: DictionaryConfig
    objective: Objective


def trains_on_contexts(geometry: GeometryBase | type[GeometryBase], needs_model: bool) -> bool:
    """True if a dictionary is trained on whole contexts, and not on shuffled tokens."""
    return geometry.grain == "context" or needs_model
