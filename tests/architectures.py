"""Catalog entries made small: their parts, and dictionaries with random weights."""

from typing import Any

import torch

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.planning.catalog import CATALOG
from lmsae.planning.resolver import dictionary_of
from lmsae.training.objective import Objective

REQUIRED = {
    "k": 4,
    "l1_coefficient": 0.1,
    "l0_coefficient": 0.1,
    "p_anneal_coefficient": 0.1,
    "tanh_coefficient": 0.1,
    "lorsa_qk_heads": 2,
    "lorsa_d_qk": 4,
    "molt_ranks": "2x1 1x3",
}
"""Columns that some part must be given, or that suit small ones, for tests that do not care about their values."""
SITES = {"crosscoder": (2, 2), "clt": (2, 2)}
"""How many hook points the geometries read and write that take several."""
SAES = [name for name, entry in CATALOG.items() if entry.geometry == "sae"]


def sites_of(name: str) -> tuple[int, int]:
    """How many hook points a catalog entry reads and writes here."""
    return SITES.get(CATALOG[name].geometry, (1, 1))


def parts(
    name: str, width: int, d_sae: int, *, out_width: int | None = None, **columns: Any
) -> tuple[DictionaryConfig, Objective]:
    """What a catalog entry means, with the defaults of all columns but these: every hook point read is of `width`, and
    every one written of `out_width`, by default the same. Columns that belong to no part of it have no effect."""
    reads, writes = sites_of(name)
    geometry = str(columns.get("geometry") or CATALOG[name].geometry)
    written = width if out_width is None or GEOMETRIES[geometry].autoencodes else out_width
    required = {**REQUIRED, "architecture": name, "d_sae": d_sae, **columns}
    return dictionary_of(required, (width,) * reads, (written,) * writes, shared=required)


def randomize(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    """Fill every parameter with random values; thresholds stay where they are. Returns the dictionary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.geometry.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return dictionary
