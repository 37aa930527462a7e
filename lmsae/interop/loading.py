"""A folder of any format as a dictionary, or as the description of one."""

from collections.abc import Callable
from pathlib import Path

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import CONFIG, Dictionary
from lmsae.dictionary.reading import read_config
from lmsae.interop import dictionary_learning, openmoss, saelens, sparsify
from lmsae.interop.finished import Description, Format, Origin, format_of


def _describe_own(folder: Path) -> tuple[DictionaryConfig, Origin]:
    return read_config(folder / CONFIG, DictionaryConfig), Origin()


LOADERS: dict[Format, Callable[[Path], Dictionary]] = {
    "lmsae": Dictionary.load,
    "saelens": saelens.load,
    "dictionary_learning": dictionary_learning.load,
    "sparsify": sparsify.load,
    "openmoss": openmoss.load,
}
DESCRIBERS: dict[Format, Callable[[Path], tuple[DictionaryConfig, Origin]]] = {
    "lmsae": _describe_own,
    "saelens": saelens.describe,
    "dictionary_learning": dictionary_learning.describe,
    "sparsify": sparsify.describe,
    "openmoss": openmoss.describe,
}


def load(folder: Path, kind: Format | None = None) -> Dictionary:
    """The dictionary in a folder, of a format or of the one that its files have, on the CPU, ready for inference.

    Raises FolderError, naming a file, if it holds none, is damaged, or has no exact counterpart in lmsae.
    """
    return LOADERS[kind or format_of(folder)](folder)


def describe(folder: Path) -> Description:
    """The description of the dictionary in a folder, without its weights where the config has all sizes. Raises
    FolderError."""
    kind = format_of(folder)
    dictionary, origin = DESCRIBERS[kind](folder)
    return Description(format=kind, dictionary=dictionary, origin=origin)
