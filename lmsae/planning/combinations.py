"""Which parts of an architecture go together; what does not is refused by name, with what to use instead."""

from collections.abc import Iterator, Sequence
from typing import Any

from lmsae.losses import LOSSES
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK
from lmsae.sparsity.config import ACT_FNS


class SectionFault(ValueError):
    """Something wrong with one column of a section; `column` is the field's name, or None for the whole row."""

    def __init__(self, column: str | None, message: str) -> None:
        self.column, self.message = column, message
        super().__init__(message)


_ASKED_FOR = {
    HasGate: ("gate", "for another one use l1"),
    HasThreshold: ("threshold", "for another one use l1 or tanh"),
    TakesAnyK: ("k", "for another one leave it out"),
}
"""The capabilities that losses need, in words, and what to use instead with an activation function without them."""
DENSE = ("relu", "gated", "jumprelu")
"""Activation functions whose codes are as sparse as their losses make them."""


def refuse_nonsense(section: Any, geometry: Any, act_fn: Any, losses: Sequence[Any]) -> None:
    """Raise SectionFault for parts that do not go together; `section` holds the columns common to all."""
    _refuse_losses(section, act_fn, losses)
    _refuse_act_fn(section, geometry, act_fn)
    if section.unit_norm_decoder and geometry.kind in ("crosscoder", "clt", "molt"):
        message = f"a {geometry.kind} has no single decoder row of a latent; leave it false"
        raise SectionFault("unit_norm_decoder", message)


def refuse_too_many(act_fn: Any, latents: int) -> None:
    """Raise SectionFault for a number of active latents that there cannot be."""
    k = getattr(act_fn, "k", 0)
    if k > latents and not act_fn.needs_tied_encoder:  # matching pursuit may choose a latent again
        raise SectionFault("k", f"k is {k}, but there are only {latents} latents")
    if act_fn.kind == "groupmax" and latents % k:
        raise SectionFault("k", f"groupmax makes k equal groups, but {k} does not divide {latents} latents")


def _refuse_losses(section: Any, act_fn: Any, losses: Sequence[Any]) -> None:
    kinds = [loss.kind for loss in losses]
    if len(set(kinds)) < len(kinds):
        raise SectionFault("losses", f"found {' '.join(kinds)}: name each loss once")
    whole = [loss.kind for loss in losses if loss.replaces_reconstruction]
    if len(whole) > 1:
        raise SectionFault("losses", f"{' and '.join(whole)} each measure the reconstruction; choose one of them")
    for loss in losses:
        if loss.needs_unit_rows and not section.unit_norm_decoder:
            message = f"the {loss.kind} loss could be made small by large decoder rows; keep it true, or use lp"
            raise SectionFault("unit_norm_decoder", message)
        for need in (need for need in loss.needs if need not in act_fn.offers):
            word, instead = _ASKED_FOR[need]
            able = " or ".join(kind for kind, config in ACT_FNS.items() if need in config.offers)
            message = f"the {loss.kind} loss needs an activation function with a {word} ({able}), not {act_fn.kind}"
            raise SectionFault("losses", f"{message}; {instead}")
    if act_fn.kind == "gated" and "gated_aux" not in kinds:
        raise SectionFault("losses", "the gate of gated learns from the gated_aux loss alone: add gated_aux")
    if act_fn.kind in DENSE and not any(loss.sparsifies for loss in losses):
        able = ", ".join(
            kind
            for kind, loss in LOSSES.items()
            if loss.sparsifies and not loss.needs_unit_rows and set(loss.needs) <= set(act_fn.offers)
        )
        message = f"{act_fn.kind} without a sparsity loss is not sparse: add one ({able}), or choose topk or batchtopk"
        raise SectionFault("losses", message)


def _refuse_act_fn(section: Any, geometry: Any, act_fn: Any) -> None:
    kind = act_fn.kind
    if act_fn.needs_tied_encoder and not (
        getattr(geometry, "tied_encoder", False) and not geometry.glu_encoder and section.unit_norm_decoder
    ):
        message = f"{kind} takes decoder rows out of x one by one: it needs the geometry sae with tied_encoder"
        raise SectionFault("act_fn", f"{message} and unit_norm_decoder true, and glu_encoder false")
    if act_fn.brings_bias and section.sparsity_include_decoder_norm:
        message = f"{kind} has its own way of selecting latents; leave it false"
        raise SectionFault("sparsity_include_decoder_norm", message)
    if act_fn.joins_groups and geometry.kind != "clt":
        plain = kind.replace("layer", "")
        message = f"only a clt has layers to select over; for a {geometry.kind} it is {plain}: write {plain}"
        raise SectionFault("act_fn", message)
    if section.convert_to_jumprelu and act_fn.not_jumprelu_because is not None:
        raise SectionFault("convert_to_jumprelu", f"{kind} cannot be converted: {act_fn.not_jumprelu_because}")


def idle(init: Any, train: Any, dictionary: Any, objective: Any) -> Iterator[tuple[str, str]]:
    """Columns that change nothing beside a row's others, and what they would need. Rows that write them are refused:
    they would be other artifacts with the same bytes."""
    geometry, act_fn = dictionary.geometry, dictionary.act_fn
    searches = geometry.autoencodes if init.grid_search is None else init.grid_search
    needs = (
        ("init.datapoint_blend", init.decoder_init == "datapoint", "init.decoder_init datapoint"),
        ("init.subspace_rank", init.decoder_init == "active_subspace", "init.decoder_init active_subspace"),
        ("init.decoder_norm", not searches, "init.grid_search false, for a search chooses the norm"),
        ("init.tokens", searches or init.b_enc != "zero", "init.grid_search true or init.b_enc minus_mean_pre"),
        ("train.lr_cool_down_steps", train.lr_schedule == "trapezoid", "train.lr_schedule trapezoid"),
        ("train.lr_end_ratio", train.lr_schedule != "constant", "a train.lr_schedule that falls"),
        ("train.k_cold_boot_steps", train.initial_k, "train.initial_k"),
        ("train.k_warm_up_steps", train.initial_k, "train.initial_k"),
        ("train.k_schedule", train.initial_k, "train.initial_k"),
        ("train.resample_times", train.resample_steps, "train.resample_steps above 0"),
        ("train.threshold_lr_factor", act_fn.kind == "jumprelu", "jumprelu, which alone learns thresholds by gradient"),
        ("train.encoder_lr_factor", not getattr(geometry, "tied_encoder", False), "an encoder that is not tied"),
        (
            "train.sparsity_warm_up_steps",
            any(loss.sparsifies for loss in objective.losses),
            "a loss that makes codes sparse",
        ),
        ("sae.lorsa_rotary_dim", getattr(geometry, "lorsa_rotary", True), "sae.lorsa_rotary true"),
        ("sae.lorsa_rotary_base", getattr(geometry, "lorsa_rotary", True), "sae.lorsa_rotary true"),
    )
    for column, has_use, needed in needs:
        if not has_use:
            yield column, f"changes nothing in this row: it needs {needed}. Leave the cell empty"
