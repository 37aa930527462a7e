"""Catalog entries made small: their parts, and dictionaries with random weights."""

from typing import Any

import torch

from lmsae.catalog import Objective, SaeSection, resolve, with_defaults
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary

REQUIRED = {"k": 4, "l1_coefficient": 0.1, "l0_coefficient": 0.1}
"""Columns that some part must be given, for tests that do not care about their values."""


def parts(name: str, width: int, d_sae: int, **columns: Any) -> tuple[DictionaryConfig, Objective]:
    """What a catalog entry means, with the defaults of all columns but these."""
    values = with_defaults({"hook_point": "x", "architecture": name, "d_sae": d_sae, **columns})
    section = SaeSection(**{field: values[field] for field in SaeSection.model_fields if field in values})
    return resolve(section, REQUIRED | columns, frozenset(), width)


def randomise(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    """Fill every parameter with random values; thresholds stay where they are. Returns the dictionary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.geometry.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return dictionary
