"""The last step of all loaders: fill a dictionary with weights whose names and shapes have been checked."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError, ShapeError


def make_config(file: Path, fields: JsonObject) -> DictionaryConfig:
    """The config of a dictionary of such fields, read from a file. Raises FolderError if there can be none."""
    try:
        return DictionaryConfig.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        raise FolderError(f"{file} describes no dictionary of lmsae: {faults}.") from None


def fill_dictionary(
    file: Path, config: DictionaryConfig, geometry: Mapping[str, Tensor], sparsity: Mapping[str, Tensor]
) -> Dictionary:
    """Fill a dictionary on the CPU, ready for inference, with these parameters. Others keep their starting values.

    Raises FolderError, naming the file of the config, if there can be no such dictionary.
    """
    try:
        dictionary = Dictionary(config)
    except ShapeError as error:
        raise FolderError(f"{file}: {error}") from None
    state = {f"geometry.{name}": value for name, value in geometry.items()}
    state |= {f"sparsity.{name}": value for name, value in sparsity.items()}
    dictionary.load_state_dict(dictionary.state_dict() | state)
    return dictionary.eval().requires_grad_(False)
