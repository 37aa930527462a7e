"""Losses: pure functions of one forward pass, each a part of a spec that carries its own coefficient.

Every loss is a mean over tokens, in the units that training sees (normalized activations unless
`sae.normalize_activations` is none), summed over dimensions or latents. Peers divide by d or by the batch's variance;
their coefficients differ accordingly.
"""

from lmsae.geometry.forward import Forward
from lmsae.losses.anneal import PAnneal
from lmsae.losses.auxiliary import AuxK, GatedAux, GhostGrads, MultiTopK, PreAct
from lmsae.losses.config import LOSSES, LossConfig
from lmsae.losses.end_to_end import EndToEndCE, EndToEndKL
from lmsae.losses.loss import Loss, TrainingStep
from lmsae.losses.penalties import L0, L1, Lp, Tanh, TanhQuad, TargetL0, TargetL0Gemma
from lmsae.losses.reconstruction import Nested, NestedSampled, reconstruction_loss

__all__ = [
    "L0",
    "L1",
    "LOSSES",
    "AuxK",
    "EndToEndCE",
    "EndToEndKL",
    "Forward",
    "GatedAux",
    "GhostGrads",
    "Loss",
    "LossConfig",
    "Lp",
    "MultiTopK",
    "Nested",
    "NestedSampled",
    "PAnneal",
    "PreAct",
    "Tanh",
    "TanhQuad",
    "TargetL0",
    "TargetL0Gemma",
    "TrainingStep",
    "reconstruction_loss",
]
