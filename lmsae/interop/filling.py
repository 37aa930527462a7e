"""What all loaders do at the end: look whether the weights are those that the format names, and fill a dictionary."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError


def require(wanted: Iterable[str], found: Mapping[str, Tensor], file: Path, kind: str, mend: str) -> None:
    """Raise ExportError unless the file holds exactly the weights that such a dictionary has."""
    names = sorted(wanted)
    if sorted(found) != names:
        raise ExportError(f"{file}: {kind} has the weights {', '.join(names)}, but found {', '.join(found)}. {mend}")


def filled(config: DictionaryConfig, geometry: Mapping[str, Tensor], sparsity: Mapping[str, Tensor]) -> Dictionary:
    """A dictionary on the CPU, ready for inference, with these parameters; what is not given stays as it starts."""
    dictionary = Dictionary(config)
    state = {f"geometry.{name}": value for name, value in geometry.items()}
    state |= {f"sparsity.{name}": value for name, value in sparsity.items()}
    dictionary.load_state_dict(dictionary.state_dict() | state)
    return dictionary.eval().requires_grad_(False)
