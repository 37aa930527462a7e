"""The zoo on one screen: each named architecture is a geometry, an activation function and losses.

`architecture: topk` in a row is a macro. The same parts written by hand give the same spec and so the same key. A row
may also take an architecture and replace a part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmsae.config import Frozen
from lmsae.geometry.config import GEOMETRIES
from lmsae.losses import LOSSES
from lmsae.sparsity.config import ACT_FNS


@dataclass(frozen=True, slots=True)
class Entry:
    """A named architecture: its parts, what it sets differently from the defaults, and where it comes from."""

    geometry: str
    act_fn: str
    losses: tuple[str, ...]
    paper: str
    defaults: Mapping[str, object] = field(default_factory=dict)


_UNIT = {"unit_norm_decoder": True}
CATALOG: dict[str, Entry] = {
    "standard": Entry("sae", "relu", ("l1",), "Bricken et al. 2023", _UNIT),
    "standard_new": Entry("sae", "relu", ("l1",), "Conerly et al. 2024 (April update)"),
    "gated": Entry("sae", "gated", ("gated_aux",), "Rajamanoharan et al. 2024, arXiv 2404.16014", _UNIT),
    "p_anneal": Entry("sae", "relu", ("p_anneal",), "Karvonen et al. 2024, arXiv 2408.00113", _UNIT),
    "jumprelu": Entry("sae", "jumprelu", ("l0",), "Rajamanoharan et al. 2024, arXiv 2407.14435"),
    "topk": Entry("sae", "topk", ("aux_k",), "Gao et al. 2024, arXiv 2406.04093"),
    "batchtopk": Entry("sae", "batchtopk", ("aux_k",), "Bussmann et al. 2024, arXiv 2412.06410"),
    "matryoshka": Entry("sae", "batchtopk", ("nested", "aux_k"), "Bussmann et al. 2025, arXiv 2503.17547"),
    "abstopk": Entry("sae", "abstopk", ("aux_k",), "Zhu et al. 2025, arXiv 2510.00404"),
    "groupmax": Entry("sae", "groupmax", ("aux_k",), "sparsify, EleutherAI 2024"),
    "matching_pursuit": Entry(
        "sae", "matching_pursuit", (), "Costa et al. 2025, arXiv 2506.03093", {**_UNIT, "tied_encoder": True}
    ),
    "transcoder": Entry("transcoder", "topk", ("aux_k",), "Dunefsky et al. 2024, arXiv 2406.11944"),
    "skip_transcoder": Entry("skip_transcoder", "topk", ("aux_k",), "Paulo et al. 2025, arXiv 2501.18823"),
    "crosscoder": Entry("crosscoder", "relu", ("l1",), "Lindsey et al. 2024 (October update)"),
    "clt": Entry("clt", "jumprelu", ("tanh", "pre_act"), "Ameisen et al. 2025 (Circuit Tracing)"),
    "lorsa": Entry("lorsa", "topk", ("aux_k",), "He et al. 2025, arXiv 2504.20938"),
    "molt": Entry(
        "molt", "jumprelu", ("tanh", "pre_act"), "Lindsey et al. 2025 (Sparse mixtures of linear transforms)"
    ),
}

PIECES: Mapping[str, Mapping[str, type[Frozen]]] = {"geometry": GEOMETRIES, "act_fn": ACT_FNS, "losses": LOSSES}


def piece_fields() -> dict[str, list[type[Frozen]]]:
    """Every column that a part of an architecture adds to `sae.*`, and the parts that have it."""
    owners: dict[str, list[type[Frozen]]] = {}
    for pieces in PIECES.values():
        for piece in pieces.values():
            for name in piece.model_fields:
                if name != "kind":
                    owners.setdefault(name, []).append(piece)
    return owners


def with_defaults(values: Mapping[str, object]) -> dict[str, object]:
    """A row's `sae.*` values over those that its architecture sets. Raises KeyError for an unknown architecture."""
    name = values.get("architecture")
    if name is None:
        return dict(values)
    entry = CATALOG[str(name)]
    parts = {"geometry": entry.geometry, "act_fn": entry.act_fn, "losses": entry.losses}
    return {**parts, **entry.defaults, **{key: value for key, value in values.items() if value is not None}}
