"""Checks of an architecture's parts: those that do not go together are refused by name, with what to use instead."""

from collections.abc import Iterator

from lmsae.losses import LOSSES
from lmsae.planning.catalog import PIECES
from lmsae.planning.dictionaries import Parts, SaeSection
from lmsae.planning.draft import Check, Refusal
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK
from lmsae.sparsity.config import ACT_FNS

_ASKED_FOR = {
    HasGate: ("gate", "for another one use l1"),
    HasThreshold: ("threshold", "for another one use l1 or tanh"),
    TakesAnyK: ("k", "for another one leave it out"),
}
"""The capabilities that losses need, in words, and what to use with an activation function without them."""
DENSE = ("relu", "gated", "jumprelu")
"""Activation functions whose codes are as sparse as their losses make them."""


def every_column_belongs_to_a_part(sae: SaeSection, parts: Parts, own_columns: frozenset[str]) -> Iterator[Refusal]:
    """A column written for the row itself must mean something."""
    used = {name for piece in (parts.geometry, parts.act_fn, *parts.losses) for name in type(piece).model_fields}
    own = {column.removeprefix("sae.") for column in own_columns if column.startswith("sae.")}
    for name in sorted(own - used - SaeSection.model_fields.keys()):
        owners = [kind for pieces in PIECES.values() for kind, piece in pieces.items() if name in piece.model_fields]
        kinds = (sae.geometry or "sae", sae.act_fn, *(sae.losses or ()))
        message = f"a row of {' · '.join(map(str, kinds))} has no {name}; it belongs to {', '.join(owners)}"
        yield Refusal(f"sae.{name}", f"{message}. Leave the cell empty")


def losses_go_together(parts: Parts) -> Iterator[Refusal]:
    kinds = [loss.kind for loss in parts.losses]
    if len(set(kinds)) < len(kinds):
        yield Refusal("sae.losses", f"found {' '.join(kinds)}: name each loss once")
    whole = [loss.kind for loss in parts.losses if loss.replaces_reconstruction]
    if len(whole) > 1:
        yield Refusal("sae.losses", f"{' and '.join(whole)} each measure the reconstruction; choose one of them")


def losses_have_what_they_need(sae: SaeSection, parts: Parts) -> Iterator[Refusal]:
    act_fn = parts.act_fn
    for loss in parts.losses:
        if loss.needs_unit_rows and not sae.unit_norm_decoder:
            message = f"the {loss.kind} loss could be made small by large decoder rows; keep it true, or use lp"
            yield Refusal("sae.unit_norm_decoder", message)
        for need in (need for need in loss.needs if need not in act_fn.offers):
            word, instead = _ASKED_FOR[need]
            able = " or ".join(kind for kind, config in ACT_FNS.items() if need in config.offers)
            message = f"the {loss.kind} loss needs an activation function with a {word} ({able}), not {act_fn.kind}"
            yield Refusal("sae.losses", f"{message}; {instead}")


def codes_become_sparse(parts: Parts) -> Iterator[Refusal]:
    kind = parts.act_fn.kind
    if kind == "gated" and all(loss.kind != "gated_aux" for loss in parts.losses):
        yield Refusal("sae.losses", "the gate of gated learns from the gated_aux loss alone: add gated_aux")
    elif kind in DENSE and not any(loss.sparsifies for loss in parts.losses):
        able = ", ".join(
            name
            for name, loss in LOSSES.items()
            if loss.sparsifies and not loss.needs_unit_rows and set(loss.needs) <= set(parts.act_fn.offers)
        )
        message = f"{kind} without a sparsity loss is not sparse: add one ({able}), or choose topk or batchtopk"
        yield Refusal("sae.losses", message)


def activation_function_goes_with_geometry(sae: SaeSection, parts: Parts) -> Iterator[Refusal]:
    geometry, act_fn = parts.geometry, parts.act_fn
    is_tied = geometry.kind == "sae" and geometry.tied_encoder and not geometry.glu_encoder and sae.unit_norm_decoder
    if act_fn.needs_tied_encoder and not is_tied:
        message = f"{act_fn.kind} takes decoder rows out of x one by one: it needs the geometry sae with tied_encoder"
        yield Refusal("sae.act_fn", f"{message} and unit_norm_decoder true, and glu_encoder false")
    elif act_fn.joins_groups and geometry.kind != "clt":
        plain = act_fn.kind.replace("layer", "")
        message = f"only a clt has layers to select over; for a {geometry.kind} it is {plain}: write {plain}"
        yield Refusal("sae.act_fn", message)


def settings_go_with_activation_function(sae: SaeSection, parts: Parts) -> Iterator[Refusal]:
    act_fn = parts.act_fn
    if act_fn.brings_bias and sae.sparsity_include_decoder_norm:
        message = f"{act_fn.kind} has its own way of selecting latents; leave it false"
        yield Refusal("sae.sparsity_include_decoder_norm", message)
    if sae.convert_to_jumprelu and act_fn.not_jumprelu_because is not None:
        message = f"{act_fn.kind} cannot be converted: {act_fn.not_jumprelu_because}"
        yield Refusal("sae.convert_to_jumprelu", message)


def unit_rows_are_rows(sae: SaeSection, parts: Parts) -> Iterator[Refusal]:
    if sae.unit_norm_decoder and parts.geometry.kind in ("crosscoder", "clt", "molt"):
        message = f"a {parts.geometry.kind} has no single decoder row of a latent; leave it false"
        yield Refusal("sae.unit_norm_decoder", message)


CHECKS: tuple[Check, ...] = (
    every_column_belongs_to_a_part,
    losses_go_together,
    losses_have_what_they_need,
    codes_become_sparse,
    activation_function_goes_with_geometry,
    settings_go_with_activation_function,
    unit_rows_are_rows,
)
