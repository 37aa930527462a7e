"""The last steps of all loaders: check that the weights are those of the format, and fill a dictionary with them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError


def require_weights(wanted: Iterable[str], found: Mapping[str, Tensor], file: Path, kind: str, mend: str) -> None:
    """Raise ExportError unless the weights in a file are exactly those of such a dictionary; `mend` says what to do."""
    names = sorted(wanted)
    if sorted(found) != names:
        raise ExportError(f"{file}: {kind} has the weights {', '.join(names)}, but found {', '.join(found)}. {mend}")


def fill_dictionary(
    config: DictionaryConfig, geometry: Mapping[str, Tensor], sparsity: Mapping[str, Tensor]
) -> Dictionary:
    """Fill a dictionary on the CPU, ready for inference, with these parameters. Others keep their starting values."""
    dictionary = Dictionary(config)
    state = {f"geometry.{name}": value for name, value in geometry.items()}
    state |= {f"sparsity.{name}": value for name, value in sparsity.items()}
    dictionary.load_state_dict(dictionary.state_dict() | state)
    return dictionary.eval().requires_grad_(False)
