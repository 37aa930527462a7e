"""The zoo on one screen: each named architecture is a geometry, an activation function and losses.

`architecture: topk` in a row is a macro. The same parts written by hand give the same spec and so the same key. A row
may also take an architecture and replace a part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import nearest
from lmsae.geometry.config import GEOMETRIES
from lmsae.losses import LOSSES, LossConfig
from lmsae.sparsity.config import ACT_FNS


@dataclass(frozen=True, slots=True)
class Entry:
    """A named architecture: its parts, what it sets differently from the defaults, and where it comes from."""

    geometry: str
    act_fn: str
    losses: tuple[str, ...]
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


CATALOG: dict[str, Entry] = {
    "standard": Entry("sae", "relu", ("l1",), "Bricken et al. 2023", {"unit_norm_decoder": True}),
    "standard_new": Entry("sae", "relu", ("l1",), "Conerly et al. 2024 (April update)"),
    "topk": Entry("sae", "topk", ("aux_k",), "Gao et al. 2024, arXiv 2406.04093"),
    "batchtopk": Entry("sae", "batchtopk", ("aux_k",), "Bussmann et al. 2024, arXiv 2412.06410"),
    "jumprelu": Entry("sae", "jumprelu", ("l0",), "Rajamanoharan et al. 2024, arXiv 2407.14435"),
}

PIECES: dict[str, dict[str, type[Frozen]]] = {"geometry": GEOMETRIES, "act_fn": ACT_FNS, "losses": LOSSES}


class SaeSection(Frozen):
    """The columns `sae.*` that every architecture has. Each part of an architecture adds its own."""

    hook_point: str = Field(description="Where the activations come from, by its TransformerLens name.")
    architecture: str | None = Field(
        default=None, description="A name from the catalog; empty if the parts are written out."
    )
    geometry: str | None = Field(
        default=None, description="How x becomes pre-activations; replaces the architecture's."
    )
    act_fn: str | None = Field(
        default=None, description="How pre-activations become codes; replaces the architecture's."
    )
    losses: tuple[str, ...] | None = Field(
        default=None, description="Losses beside reconstruction, separated by spaces; replace the architecture's."
    )
    d_sae: int | None = Field(default=None, gt=0, description="Number of latents; give this or `sae.expansion_factor`.")
    expansion_factor: float | None = Field(
        default=None, gt=0, description="Number of latents as a multiple of the width."
    )
    normalize_activations: bool = Field(
        default=True,
        description="Scale activations so that their mean norm is sqrt(width), as estimated by the norm stage.",
    )
    unit_norm_decoder: bool = Field(
        default=False, description="Keep decoder rows at norm 1, with the gradient along each row removed."
    )


class Objective(Frozen):
    """What training adds to a dictionary: losses beside reconstruction, and a constraint on the decoder."""

    losses: tuple[LossConfig, ...]
    unit_norm_decoder: bool


class SectionFault(ValueError):
    """Something wrong with one column of a section; `column` is the field's name, or None for the whole row."""

    def __init__(self, column: str | None, message: str) -> None:
        self.column, self.message = column, message
        super().__init__(message)


def piece_fields() -> dict[str, list[type[Frozen]]]:
    """Every column that a part of an architecture adds to `sae.*`, and the parts that have it."""
    owners: dict[str, list[type[Frozen]]] = {}
    for pieces in PIECES.values():
        for piece in pieces.values():
            for name in piece.model_fields:
                if name != "kind":
                    owners.setdefault(name, []).append(piece)
    return owners


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's `sae.*` values over what its architecture sets; raises SectionFault for an unknown architecture."""
    name = values.get("architecture")
    if name is None:
        return dict(values)
    if not isinstance(name, str) or name not in CATALOG:
        hint = nearest(str(name), CATALOG)
        raise SectionFault("architecture", f"there is no architecture {name!r}; there are {', '.join(CATALOG)}{hint}")
    entry = CATALOG[name]
    parts = {"geometry": entry.geometry, "act_fn": entry.act_fn, "losses": entry.losses}
    return {**parts, **entry.defaults, **{key: value for key, value in values.items() if value is not None}}


def resolve(
    section: SaeSection, pieces: Mapping[str, Any], written: frozenset[str], width: int
) -> tuple[DictionaryConfig, Objective]:
    """The parts that a row's `sae.*` columns mean, for activations of `width`.

    `section` holds the common columns, with the architecture's defaults; `pieces` the columns of the parts; `written`
    those of them that stand in the row itself, and which therefore must mean something. Raises SectionFault.
    """
    geometry = _piece("geometry", section.geometry or "sae", pieces)
    act_fn = _piece("act_fn", section.act_fn, pieces)
    losses = tuple(_piece("losses", name, pieces) for name in section.losses or ())
    _refuse_unused(written, [geometry, act_fn, *losses], section)
    _refuse_nonsense(act_fn.kind, [loss.kind for loss in losses])
    if (section.d_sae is None) == (section.expansion_factor is None):
        raise SectionFault("d_sae", "give the number of latents by one of sae.d_sae and sae.expansion_factor")
    d_sae = section.d_sae or round((section.expansion_factor or 0) * width)
    if not d_sae:
        raise SectionFault("expansion_factor", f"{section.expansion_factor:g} times the width {width:,} is no latent")
    if getattr(act_fn, "k", 0) > d_sae:
        raise SectionFault("k", f"k is {act_fn.k}, but there are only {d_sae} latents")
    dictionary = DictionaryConfig(d_in=width, d_out=width, d_sae=d_sae, geometry=geometry, act_fn=act_fn)
    return dictionary, Objective(losses=losses, unit_norm_decoder=section.unit_norm_decoder)


def _piece(part: str, kind: str | None, values: Mapping[str, Any]) -> Any:
    known = PIECES[part]
    if kind is None:
        raise SectionFault("architecture", f"name an architecture ({', '.join(CATALOG)}), or at least sae.{part}")
    if kind not in known:
        raise SectionFault(part, f"there is no {part} {kind!r}; there are {', '.join(known)}{nearest(kind, known)}")
    piece = known[kind]
    given = {name: values[name] for name in piece.model_fields if name in values}
    try:
        return piece(**given)
    except ValidationError as error:
        first = error.errors()[0]
        column = str(first["loc"][-1])
        if first["type"] == "missing":
            raise SectionFault(column, f"{kind} needs it ({piece.model_fields[column].description})") from None
        raise SectionFault(column, f"found {first['input']!r}: {first['msg']}") from None


def _refuse_unused(written: frozenset[str], chosen: list[Frozen], section: SaeSection) -> None:
    used = {name for piece in chosen for name in type(piece).model_fields}
    for name in sorted(written - used):
        owners = [kind for pieces in PIECES.values() for kind, piece in pieces.items() if name in piece.model_fields]
        what = section.architecture or section.act_fn
        raise SectionFault(name, f"{what} has no {name}; it belongs to {', '.join(owners)}. Leave the cell empty")


def _refuse_nonsense(act_fn: str, losses: list[str]) -> None:
    if len(set(losses)) < len(losses):
        raise SectionFault("losses", f"found {' '.join(losses)}: name each loss once")
    if "l0" in losses and act_fn != "jumprelu":
        raise SectionFault("losses", f"the l0 loss needs a learned threshold (act_fn jumprelu), not {act_fn}; use l1")
    if act_fn == "relu" and "l1" not in losses:
        raise SectionFault("losses", "relu without the l1 loss is not sparse: add l1, or choose topk or batchtopk")
    if act_fn == "jumprelu" and not {"l0", "l1"} & set(losses):
        raise SectionFault("losses", "jumprelu without a sparsity loss is not sparse: add l0 or l1")
