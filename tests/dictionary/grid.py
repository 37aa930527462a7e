"""Every geometry x activation function x normalization that can be planned, as small dictionaries that look trained."""

from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig, Normalization
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.normalizer import Moments
from lmsae.geometry import config as geometries
from lmsae.sparsity import config as act_fns

CONTEXTS, CONTEXT_SIZE, D_SAE, K = 12, 8, 12, 3
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


@dataclass(frozen=True)
class Shape:
    config: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]


GEOMETRIES = {
    "sae": Shape(geometries.SAEConfig(), (6,), (6,)),
    "sae_without_subtraction": Shape(geometries.SAEConfig(apply_b_dec_to_input=False), (6,), (6,)),
    "sae_tied": Shape(geometries.SAEConfig(tied_encoder=True), (6,), (6,)),
    "sae_glu": Shape(geometries.SAEConfig(glu_encoder=True), (6,), (6,)),
    "transcoder": Shape(geometries.TranscoderConfig(), (6,), (5,)),
    "transcoder_glu": Shape(geometries.TranscoderConfig(glu_encoder=True), (6,), (6,)),
    "skip_transcoder": Shape(geometries.SkipTranscoderConfig(), (6,), (5,)),
    "crosscoder": Shape(geometries.CrosscoderConfig(), (4, 6), (4, 6)),
    "clt": Shape(geometries.CLTConfig(), (6, 6, 6), (5, 5, 5)),
    "lorsa": Shape(geometries.LorsaConfig(lorsa_qk_heads=2, lorsa_d_qk=4), (6,), (5,)),
    "molt": Shape(geometries.MOLTConfig(molt_ranks=("2x1", "1x2")), (6,), (5,)),
}
ACT_FNS: dict[str, Any] = {
    **{kind: model(**({"k": K} if "k" in model.model_fields else {})) for kind, model in act_fns.ACT_FNS.items()},
    "jumprelu_direct": act_fns.JumpReLUConfig(jumprelu_threshold="direct"),
}
NO_FOLD = {
    "*-*-token*": "number of its own",
    "*-*-layer_norm*": "number of its own",
    # A code multiplies x, so the mean that whitening takes from x would have to be multiplied by codes.
    "molt-*-whiten*": "multiplies its codes with its input",
    # The mean that whitening takes from x has no bias to go to, unless b_dec is subtracted from x.
    "sae_without_subtraction-gated-whiten": "no b_enc",
    "transcoder*-gated-whiten": "no b_enc",
    "skip_transcoder-gated-whiten": "no b_enc",
    "crosscoder-gated-whiten": "no b_enc",
    "clt-gated-whiten": "no b_enc",
    "lorsa-gated-whiten": "no b_enc",
}
"""The cases that cannot be folded, as geometry-act_fn-normalization, and what the refusal says."""


@dataclass(frozen=True)
class Case:
    geometry: str
    act_fn: str
    normalization: Normalization = "dataset"
    include_norm: bool = False

    def __str__(self) -> str:
        by_norm = "-by_norm" if self.include_norm else ""
        return f"{self.geometry}-{self.act_fn}-{self.normalization}{by_norm}"

    @property
    def config(self) -> DictionaryConfig:
        shape = GEOMETRIES[self.geometry]
        return DictionaryConfig(
            widths=geometries.Widths(reads=shape.reads, writes=shape.writes),
            d_sae=D_SAE,
            geometry=shape.config,
            act_fn=ACT_FNS[self.act_fn],
            normalize_activations=self.normalization,
            sparsity_include_decoder_norm=self.include_norm,
        )


def can_be_planned(case: Case) -> bool:
    act_fn = ACT_FNS[case.act_fn]
    if act_fn.needs_tied_encoder and case.geometry != "sae_tied":
        return False
    if act_fn.joins_groups and case.geometry != "clt":
        return False
    return not (act_fn.brings_bias and case.include_norm)


def cases(include_norm: tuple[bool, ...] = (False, True)) -> list[Case]:
    combinations = product(GEOMETRIES, ACT_FNS, NORMALIZATIONS, include_norm)
    return [case for one in combinations if can_be_planned(case := Case(*one))]


def every_third(cases: list[Case]) -> list[Any]:
    """The cases as parameters of a test: a third in every run, spread over all parts of a case, and all in CI's."""
    return [
        case if number % 3 == 0 else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)
    ]


def why_no_fold(case: Case) -> str | None:
    """The words of the refusal to fold this case, or None if it can be folded."""
    return next((reason for pattern, reason in NO_FOLD.items() if fnmatch(str(case), pattern)), None)


def activations(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Raw input and target: correlated, off center, every hook point of another size."""
    shape, generator = GEOMETRIES[case.geometry], torch.Generator().manual_seed(1)

    def at(width: int) -> Tensor:
        mixed = torch.randn(CONTEXTS, CONTEXT_SIZE, width, generator=generator)
        mixed = mixed @ torch.randn(width, width, generator=generator)
        return (mixed + torch.randn(width, generator=generator)) * 10 * torch.rand((), generator=generator)

    x = torch.cat([at(width) for width in shape.reads], dim=-1)
    target = x if shape.config.autoencodes else torch.cat([at(width) for width in shape.writes], dim=-1)
    x, target = x.to(dtype), target.to(dtype)
    return (x, target) if shape.config.grain == "context" else (x.flatten(0, 1), target.flatten(0, 1))


def moments(x: Tensor, widths: tuple[int, ...]) -> list[Moments]:
    """The statistics of the norm stage at each hook point."""
    parts = x.double().flatten(0, -2).split(list(widths), dim=1)
    return [{"mean_norm": y.norm(dim=1).mean(), "mean": y.mean(0), "variance": y.var(0, correction=0)} for y in parts]


def trained(case: Case, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Random weights, thresholds of its own for every latent, fitted normalizers, and statistics of one step."""
    made, generator = Dictionary(case.config), torch.Generator().manual_seed(0)
    if dtype == torch.float64:  # statistics are float64 anyway: `to` float32 would narrow them
        made.double()
    with torch.no_grad():
        for parameter in made.geometry.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for parameter in made.sparsity.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    x, target = activations(case, dtype)
    reads, writes = moments(x, made.config.widths.reads), moments(target, made.config.widths.writes)
    made.fit(reads, writes, x.flatten(0, -2), target.flatten(0, -2))
    usable = torch.ones(x.shape[:-1], dtype=torch.bool) if x.ndim == 3 else None
    with torch.no_grad():
        made.observe(made.train().training_pass(*made.normalize(x, target), usable))
    return made.eval()
