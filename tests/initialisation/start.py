"""Small dictionaries, initialised on activations in training's units."""

from typing import Any

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialisation.config import InitConfig
from lmsae.initialisation.from_model import ModelWeights
from lmsae.initialisation.initialise import initialise
from tests.dictionary.grid import CONTEXT_SIZE, CONTEXTS, Case, activations, moments

USABLE = torch.rand(CONTEXTS, CONTEXT_SIZE, generator=torch.Generator().manual_seed(5)) > 0.2


def held_aside(made: Dictionary, case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Fits the normalisers, and gives input, target and usable tokens as `initialise` takes them."""
    x, target = activations(case, made.geometry.b_dec.dtype)  # pyright: ignore[reportArgumentType]
    usable = USABLE if x.ndim == 3 else None
    x_tokens, target_tokens = (x, target) if usable is None else (x[usable], target[usable])
    reads, writes = moments(x_tokens, made.config.reads), moments(target_tokens, made.config.writes)
    made.fit(reads, writes, x_tokens, target_tokens)
    return (*made.normalised(x, target), usable)


def started(
    case: Case,
    *,
    dtype: torch.dtype = torch.float32,
    unit_norm_decoder: bool = False,
    model_weights: ModelWeights | None = None,
    **options: Any,
) -> tuple[Dictionary, list[dict[str, float]]]:
    made = Dictionary(case.config)
    if dtype == torch.float64:
        made.double()
    return made, initialise(
        made,
        *held_aside(made, case),
        InitConfig(**options),
        unit_norm_decoder=unit_norm_decoder,
        model_weights=model_weights,
    )
