"""The zoo on one screen: each named architecture is a geometry, an activation function and losses.

`architecture: topk` in a row is a macro. The same parts written by hand give the same spec and so the same key. A row
may also take an architecture and replace a part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from lmsae.config import Frozen, typed
from lmsae.dictionary.config import DictionaryConfig, Normalization
from lmsae.errors import found_and_wanted, nearest, wanted
from lmsae.geometry.config import GEOMETRIES, Widths
from lmsae.losses import LOSSES
from lmsae.planning.combinations import SectionFault, refuse_nonsense, refuse_too_many
from lmsae.sparsity.config import ACT_FNS
from lmsae.training.objective import Objective


@dataclass(frozen=True, slots=True)
class Entry:
    """A named architecture: its parts, what it sets differently from the defaults, and where it comes from."""

    geometry: str
    act_fn: str
    losses: tuple[str, ...]
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


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

MOST_LATENTS = 2**31 - 1
PIECES: Mapping[str, Mapping[str, type[Frozen]]] = {"geometry": GEOMETRIES, "act_fn": ACT_FNS, "losses": LOSSES}


class SaeSection(Frozen):
    """The columns `sae.*` that every architecture has. Each part of an architecture adds its own."""

    hook_point: tuple[str, ...] | None = Field(
        default=None,
        description="Where activations are read and written, by TransformerLens names; a crosscoder takes several.",
    )
    hook_point_in: tuple[str, ...] | None = Field(
        default=None, description="Where a dictionary reads that writes elsewhere (transcoder, clt, lorsa, molt)."
    )
    hook_point_out: tuple[str, ...] | None = Field(
        default=None, description="Where such a dictionary writes; of a clt, one for each of `sae.hook_point_in`."
    )
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
        default=None,
        description="Losses beside reconstruction, separated by spaces; replace the architecture's, which empty keeps.",
    )
    d_sae: int | None = Field(
        default=None,
        gt=0,
        description="Number of latents (of a clt: in each layer); give this or `sae.expansion_factor`.",
    )
    expansion_factor: float | None = Field(
        default=None, gt=0, le=65536, description="Number of latents as a multiple of the width of a hook point read."
    )
    normalize_activations: Normalization = Field(
        default="dataset",
        description="Units of training. dataset: one factor a hook point, so that the mean norm is sqrt(width), as "
        "estimated by the norm stage; token: every token to norm sqrt(width); layer_norm: every token less its mean, "
        "over its standard deviation; whiten: less the mean, times the inverse root of the covariance; none: as they "
        "are. Dictionaries read and write raw activations whatever is chosen.",
    )
    sparsity_include_decoder_norm: bool = Field(
        default=False, description="Select latents by pre * ||W_dec,i|| instead of pre."
    )
    unit_norm_decoder: bool = Field(
        default=False, description="Keep decoder rows at norm 1, with the gradient along each row removed."
    )
    convert_to_jumprelu: bool = Field(
        default=False,
        description="After training, let latents fire above the threshold that the topk family has learned; the report "
        "shows what that costs (conversion_*). `lmsae convert` does the same to a finished dictionary.",
    )


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
    section: SaeSection,
    pieces: Mapping[str, Any],
    written: frozenset[str],
    reads: Sequence[int],
    writes: Sequence[int],
) -> tuple[DictionaryConfig, Objective]:
    """The parts that a row's `sae.*` columns mean, for hook points of these widths.

    `section` holds the common columns, with the architecture's defaults; `pieces` the columns of the parts; `written`
    those of them that stand in the row itself, and which therefore must mean something. Raises SectionFault.
    """
    geometry = _piece("geometry", section.geometry or "sae", pieces)
    act_fn = _piece("act_fn", section.act_fn, pieces)
    losses = tuple(_piece("losses", name, pieces) for name in section.losses or ())
    _refuse_unused(written, [geometry, act_fn, *losses], section)
    refuse_nonsense(section, geometry, act_fn, losses)
    if (section.d_sae is None) == (section.expansion_factor is None):
        raise SectionFault("d_sae", "give the number of latents by one of sae.d_sae and sae.expansion_factor")
    d_sae = section.d_sae or round((section.expansion_factor or 0) * reads[0])
    if not d_sae:
        raise SectionFault(
            "expansion_factor", f"{section.expansion_factor:g} times the width {reads[0]:,} is no latent"
        )
    if d_sae > MOST_LATENTS:
        column = "d_sae" if section.d_sae else "expansion_factor"
        raise SectionFault(column, f"makes {d_sae:,} latents; there can be {MOST_LATENTS:,} at most")
    refuse_too_many(act_fn, d_sae * (len(reads) if act_fn.joins_groups else 1))
    widths = Widths(reads=tuple(reads), writes=tuple(writes))
    impossible = geometry.fault(widths, d_sae)
    if impossible:
        raise SectionFault("geometry", impossible)
    dictionary = DictionaryConfig(
        widths=widths,
        d_sae=d_sae,
        geometry=geometry,
        act_fn=act_fn,
        normalize_activations=section.normalize_activations,
        sparsity_include_decoder_norm=section.sparsity_include_decoder_norm,
    )
    objective = Objective(
        losses=losses,
        unit_norm_decoder=section.unit_norm_decoder,
        convert_to_jumprelu=section.convert_to_jumprelu,
    )
    return dictionary, objective


def places(section: SaeSection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hook points that a row reads and writes. Raises SectionFault where its geometry takes others."""
    kind = section.geometry or "sae"
    if kind not in GEOMETRIES:
        raise SectionFault("geometry", _unknown("geometry", kind, GEOMETRIES))
    geometry = GEOMETRIES[kind]
    for column in ("hook_point", "hook_point_in", "hook_point_out"):
        names = getattr(section, column) or ()
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice and not geometry.one_each:
            raise SectionFault(column, f"names {' '.join(twice)} more than once; name each hook point once")
    if geometry.autoencodes:
        for column in ("hook_point_in", "hook_point_out"):
            if getattr(section, column):
                raise SectionFault(column, f"a {kind} writes what it reads: name its hook points by sae.hook_point")
        names = section.hook_point
        if not names:
            raise SectionFault("hook_point", "is missing: where are activations read?")
        if geometry.one_each and len(names) > 1:
            message = f"a {kind} has one hook point, not {len(names)}; a crosscoder (sae.geometry) shares latents"
            raise SectionFault("hook_point", f"{message} between several")
        return names, names
    if section.hook_point:
        message = f"a {kind} writes elsewhere than it reads: name sae.hook_point_in and sae.hook_point_out instead"
        raise SectionFault("hook_point", message)
    for column in ("hook_point_in", "hook_point_out"):
        names = getattr(section, column)
        if not names:
            raise SectionFault(column, f"a {kind} needs it ({SaeSection.model_fields[column].description})")
        if geometry.one_each and len(names) > 1:
            raise SectionFault(column, f"a {kind} takes one hook point here, not {len(names)}")
    read, written = section.hook_point_in or (), section.hook_point_out or ()
    if len(read) != len(written):
        message = f"names {len(written)} hook points, but sae.hook_point_in names {len(read)}"
        raise SectionFault("hook_point_out", f"{message}; a {kind} writes one for each that it reads")
    return read, written


def _piece(part: str, kind: str | None, values: Mapping[str, Any]) -> Any:
    known = PIECES[part]
    if kind is None:
        raise SectionFault("architecture", f"name an architecture ({', '.join(CATALOG)}), or at least sae.{part}")
    if kind not in known:
        raise SectionFault(part, _unknown(part, kind, known))
    piece = known[kind]
    given = {name: typed(piece, name, values[name]) for name in piece.model_fields if name in values}
    try:
        return piece(**given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SectionFault(part, f"{kind}: {wanted(first)}") from None
        column = str(first["loc"][0])
        if first["type"] == "missing":
            raise SectionFault(column, f"{kind} needs it ({piece.model_fields[column].description})") from None
        raise SectionFault(column, found_and_wanted(first)) from None


def _unknown(part: str, kind: str, known: Mapping[str, Any]) -> str:
    return f"there is no {part.replace('losses', 'loss')} {kind!r}; there are {', '.join(known)}{nearest(kind, known)}"


def _refuse_unused(written: frozenset[str], chosen: list[Frozen], section: SaeSection) -> None:
    used = {name for piece in chosen for name in type(piece).model_fields}
    for name in sorted(written - used):
        owners = [kind for pieces in PIECES.values() for kind, piece in pieces.items() if name in piece.model_fields]
        parts = (section.geometry or "sae", section.act_fn, *(section.losses or ()))
        what = f"a row of {' · '.join(map(str, parts))} has no {name}"
        raise SectionFault(name, f"{what}; it belongs to {', '.join(owners)}. Leave the cell empty")
