"""From the columns `sae.*` to a dictionary: its parts, its hook points, its size, and the objective that trains it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from lmsae.config import read_cells, with_from
from lmsae.dictionary.config import DictionaryConfig, Normalization
from lmsae.errors import describe_problem, describe_wanted, suggest
from lmsae.geometry.config import GEOMETRIES, GeometryConfig, Widths
from lmsae.losses import LossConfig
from lmsae.planning.catalog import CATALOG, PIECES
from lmsae.sparsity.config import ActFnConfig
from lmsae.training.objective import Objective

MOST_LATENTS = 2**31 - 1
HOOK_POINT, HOOK_POINT_IN, HOOK_POINT_OUT = "hook_point", "hook_point_in", "hook_point_out"
HOOK_POINTS = (HOOK_POINT, HOOK_POINT_IN, HOOK_POINT_OUT)

Refuse = Callable[[str | None, str], None]
"""Refuses a row: the dotted column at fault, or None for the row, and the message."""
Names = tuple[str, ...]


_From = with_from(
    "A finished dictionary: nothing is trained, and the row evaluates it. A folder (of lmsae, SAELens, "
    "dictionary_learning, sparsify or Language-Model-SAEs); owner/name[@revision][:folder] on the hub; the KEY of a "
    "dictionary that was made here; or RELEASE:ID of SAELens' table, where sae_lens is installed. What it says of its "
    "model and hook point fills the row."
)


class SaeSection(_From):
    """The columns `sae.*` that every architecture has. Each part of an architecture adds its own."""

    hook_point: tuple[str, ...] | None = Field(
        default=None,
        description="Hook point that a dictionary both reads and writes, by its TransformerLens name, or by its module "
        "in transformers (`model.layers.3.mlp.gate_proj`; `:in` for its input). A crosscoder takes several.",
    )
    hook_point_in: tuple[str, ...] | None = Field(
        default=None,
        description="Hook point that a dictionary reads if it writes at another one (transcoder, clt, lorsa, molt).",
    )
    hook_point_out: tuple[str, ...] | None = Field(
        default=None,
        description="Hook point that such a dictionary writes. A clt has one for each of `sae.hook_point_in`.",
    )
    architecture: str | None = Field(
        default=None, description="A name from the catalog. Empty if the row names the parts itself."
    )
    geometry: str | None = Field(
        default=None,
        description="Part that turns x into pre-activations and codes into a reconstruction. It replaces the "
        "architecture's.",
    )
    act_fn: str | None = Field(
        default=None, description="Part that turns pre-activations into codes. It replaces the architecture's."
    )
    losses: tuple[str, ...] | None = Field(
        default=None,
        description="Losses beside reconstruction, separated by spaces. They replace the architecture's; empty keeps "
        "those.",
    )
    d_sae: int | None = Field(
        default=None,
        gt=0,
        description="Number of latents (of a clt in each layer). Give this or `sae.expansion_factor`.",
    )
    expansion_factor: float | None = Field(
        default=None,
        gt=0,
        le=65536,
        description="Number of latents as a multiple of the width of a hook point that is read.",
    )
    normalize_activations: Normalization = Field(
        default="dataset",
        description="Units of training. dataset: one factor for each hook point, so that the mean norm is sqrt(width), "
        "as the norm stage estimates it. token: each token is scaled to norm sqrt(width). layer_norm: each token minus "
        "its mean, divided by its standard deviation. whiten: minus the mean, times the inverse root of the "
        "covariance. none: raw activations. In every case a dictionary reads and writes raw activations.",
    )
    sparsity_include_decoder_norm: bool = Field(
        default=False, description="Select latents by pre * ||W_dec,i|| instead of pre."
    )
    unit_norm_decoder: bool = Field(
        default=False, description="Keep decoder rows at norm 1, and remove the gradient along each row."
    )
    convert_to_jumprelu: bool = Field(
        default=False,
        description="After training, save the dictionary as a jumprelu with the threshold that the topk family has "
        "learned. The report shows what that costs (conversion_*). `lmsae convert` does the same to a finished "
        "dictionary.",
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an architecture, each with its columns."""

    geometry: GeometryConfig
    act_fn: ActFnConfig
    losses: tuple[LossConfig, ...]


class _Refused(Exception):
    """A row that has been refused; nobody outside this file meets it."""


def read_parts(section: SaeSection, columns: Mapping[str, object], refuse: Refuse) -> Parts | None:
    """The parts that a section names, with their `columns`; None after a refusal."""
    try:
        return Parts(
            geometry=_read_piece("geometry", section.geometry or "sae", columns, refuse),
            act_fn=_read_piece("act_fn", section.act_fn, columns, refuse),
            losses=tuple(_read_piece("losses", name, columns, refuse) for name in section.losses or ()),
        )
    except _Refused:
        return None


def choose_hook_points(section: SaeSection, refuse: Refuse) -> tuple[Names, Names] | None:
    """The names of the hook points that a row reads and writes; None after a refusal."""
    kind = section.geometry or "sae"
    try:
        if kind not in GEOMETRIES:
            raise _refused(refuse, "geometry", _unknown("geometry", kind, GEOMETRIES))
        _refuse_repeated(section, kind, refuse)
        chosen = _choose_one_side if GEOMETRIES[kind].autoencodes else _choose_both_sides
        return chosen(section, kind, refuse)
    except _Refused:
        return None


def assemble(
    section: SaeSection, parts: Parts, reads: Sequence[int], writes: Sequence[int], refuse: Refuse
) -> tuple[DictionaryConfig, Objective] | None:
    """The dictionary of these parts, for hook points of these widths, and its objective; None after a refusal."""
    try:
        d_sae = _count_latents(section, reads, refuse)
        _refuse_k(parts.act_fn, d_sae * (len(reads) if parts.act_fn.joins_groups else 1), refuse)
        widths = Widths(reads=tuple(reads), writes=tuple(writes))
        if impossible := parts.geometry.fault(widths, d_sae):
            raise _refused(refuse, "geometry", impossible)
    except _Refused:
        return None
    dictionary = DictionaryConfig(
        widths=widths,
        d_sae=d_sae,
        geometry=parts.geometry,
        act_fn=parts.act_fn,
        normalize_activations=section.normalize_activations,
        sparsity_include_decoder_norm=section.sparsity_include_decoder_norm,
    )
    objective = Objective(
        losses=parts.losses,
        unit_norm_decoder=section.unit_norm_decoder,
        convert_to_jumprelu=section.convert_to_jumprelu,
    )
    return dictionary, objective


def _refused(refuse: Refuse, column: str, message: str) -> _Refused:
    refuse(f"sae.{column}", message)
    return _Refused()


def _read_piece(part: str, kind: str | None, columns: Mapping[str, object], refuse: Refuse) -> Any:
    """The piece of a kind, with its own of the columns."""
    known = PIECES[part]
    if kind is None:
        message = f"name an architecture ({', '.join(CATALOG)}), or at least sae.{part}"
        raise _refused(refuse, "architecture", message)
    if kind not in known:
        raise _refused(refuse, part, _unknown(part, kind, known))
    piece = known[kind]
    try:
        return read_cells(piece, {name: columns[name] for name in piece.model_fields if name in columns})
    except ValidationError as error:
        first = error.errors()[0]
    if not first["loc"]:
        raise _refused(refuse, part, f"{kind}: {describe_wanted(first)}")
    column = str(first["loc"][0])
    if first["type"] == "missing":
        raise _refused(refuse, column, f"{kind} needs it ({piece.model_fields[column].description})")
    raise _refused(refuse, column, describe_problem(first))


def _unknown(part: str, kind: str, known: Mapping[str, object]) -> str:
    return f"there is no {part.replace('losses', 'loss')} {kind!r}; there are {', '.join(known)}{suggest(kind, known)}"


def _refuse_repeated(section: SaeSection, kind: str, refuse: Refuse) -> None:
    if GEOMETRIES[kind].one_each:
        return
    for column in HOOK_POINTS:
        names: Names = getattr(section, column) or ()
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            message = f"names {' '.join(twice)} more than once; name each hook point once"
            raise _refused(refuse, column, message)


def _choose_one_side(section: SaeSection, kind: str, refuse: Refuse) -> tuple[Names, Names]:
    """The hook points of a geometry that writes what it reads."""
    for column in (HOOK_POINT_IN, HOOK_POINT_OUT):
        if getattr(section, column):
            message = f"a {kind} writes what it reads: name its hook points by sae.hook_point"
            raise _refused(refuse, column, message)
    names = section.hook_point
    if not names:
        raise _refused(refuse, HOOK_POINT, "is missing: where are activations read?")
    if GEOMETRIES[kind].one_each and len(names) > 1:
        message = f"a {kind} has one hook point, not {len(names)}; a crosscoder (sae.geometry) shares latents"
        raise _refused(refuse, HOOK_POINT, f"{message} between several")
    return names, names


def _choose_both_sides(section: SaeSection, kind: str, refuse: Refuse) -> tuple[Names, Names]:
    """The hook points of a geometry that writes elsewhere than it reads."""
    if section.hook_point:
        message = f"a {kind} writes elsewhere than it reads: name sae.hook_point_in and sae.hook_point_out instead"
        raise _refused(refuse, HOOK_POINT, message)
    for column in (HOOK_POINT_IN, HOOK_POINT_OUT):
        names = getattr(section, column)
        if not names:
            description = SaeSection.model_fields[column].description
            raise _refused(refuse, column, f"a {kind} needs it ({description})")
        if GEOMETRIES[kind].one_each and len(names) > 1:
            raise _refused(refuse, column, f"a {kind} takes one hook point here, not {len(names)}")
    read, written = section.hook_point_in or (), section.hook_point_out or ()
    if len(read) != len(written):
        message = f"names {len(written)} hook points, but sae.hook_point_in names {len(read)}"
        raise _refused(refuse, HOOK_POINT_OUT, f"{message}; a {kind} writes one for each that it reads")
    return read, written


def _count_latents(section: SaeSection, reads: Sequence[int], refuse: Refuse) -> int:
    if (section.d_sae is None) == (section.expansion_factor is None):
        message = "give the number of latents by one of sae.d_sae and sae.expansion_factor"
        raise _refused(refuse, "d_sae", message)
    d_sae = section.d_sae or round((section.expansion_factor or 0) * reads[0])
    if not d_sae:
        message = f"{section.expansion_factor:g} times the width {reads[0]:,} is no latent"
        raise _refused(refuse, "expansion_factor", message)
    if d_sae > MOST_LATENTS:
        column = "d_sae" if section.d_sae else "expansion_factor"
        raise _refused(refuse, column, f"makes {d_sae:,} latents; there can be {MOST_LATENTS:,} at most")
    return d_sae


def _refuse_k(act_fn: ActFnConfig, latents: int, refuse: Refuse) -> None:
    """Refuse a number of active latents that there cannot be."""
    k = getattr(act_fn, "k", 0)
    if k > latents and not act_fn.needs_tied_encoder:  # matching pursuit may choose a latent again
        raise _refused(refuse, "k", f"k is {k}, but there are only {latents} latents")
    if act_fn.kind == "groupmax" and latents % k:
        raise _refused(refuse, "k", f"groupmax makes k equal groups, but {k} does not divide {latents} latents")
