"""Small dictionaries, initialized on activations in training's units."""

from typing import Any

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialization.config import InitConfig
from lmsae.initialization.from_model import ModelWeights
from lmsae.initialization.initialize import initialize
from tests.dictionary.grid import CONTEXT_SIZE, CONTEXTS, Case, activations, moments

USABLE = torch.rand(CONTEXTS, CONTEXT_SIZE, generator=torch.Generator().manual_seed(5)) > 0.2


def calibration(made: Dictionary, case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Fits the normalizers, and gives input, target and usable tokens as `initialize` takes them."""
    x, target = activations(case, made.geometry.b_dec.dtype)  # pyright: ignore[reportArgumentType]
    usable = USABLE if x.ndim == 3 else None
    x_tokens, target_tokens = (x, target) if usable is None else (x[usable], target[usable])
    reads, writes = moments(x_tokens, made.config.widths.reads), moments(target_tokens, made.config.widths.writes)
    made.fit(reads, writes, x_tokens, target_tokens)
    return (*made.normalize(x, target), usable)


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
    return made, initialize(
        made,
        *calibration(made, case),
        InitConfig(**options),
        unit_norm_decoder=unit_norm_decoder,
        model_weights=model_weights,
    )
