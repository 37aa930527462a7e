"""All losses that a spec can name."""

from typing import Annotated

from pydantic import Field

from lmsae.losses.anneal import PAnneal
from lmsae.losses.auxiliary import AuxK, GatedAux, GhostGrads, MultiTopK, PreAct
from lmsae.losses.end_to_end import EndToEndCE, EndToEndKL
from lmsae.losses.loss import Loss
from lmsae.losses.penalties import L0, L1, Lp, Tanh, TanhQuad, TargetL0, TargetL0Gemma
from lmsae.losses.reconstruction import Nested, NestedSampled

LossConfig = Annotated[
    L1
    | Lp
    | Tanh
    | TanhQuad
    | L0
    | TargetL0
    | TargetL0Gemma
    | PAnneal
    | PreAct
    | AuxK
    | GhostGrads
    | MultiTopK
    | GatedAux
    | Nested
    | NestedSampled
    | EndToEndKL
    | EndToEndCE,
    Field(discriminator="kind"),
]
LOSSES: dict[str, type[Loss]] = {
    "l1": L1,
    "lp": Lp,
    "tanh": Tanh,
    "tanh_quad": TanhQuad,
    "l0": L0,
    "target_l0": TargetL0,
    "target_l0_gemma": TargetL0Gemma,
    "p_anneal": PAnneal,
    "pre_act": PreAct,
    "aux_k": AuxK,
    "ghost_grads": GhostGrads,
    "multi_topk": MultiTopK,
    "gated_aux": GatedAux,
    "nested": Nested,
    "nested_sampled": NestedSampled,
    "e2e_kl": EndToEndKL,
    "e2e_ce": EndToEndCE,
}
