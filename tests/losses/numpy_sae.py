"""SAEs with random weights in float64, and their forward pass in NumPy, written from the formulas."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.losses import LOSSES, Loss, TrainingStep
from lmsae.sparsity.capabilities import HasGate, HasThreshold, TakesAnyK
from lmsae.sparsity.config import ActFnConfig, BatchTopKConfig, GatedConfig, JumpReLUConfig, ReLUConfig, TopKConfig

WIDTH, D_SAE, TOKENS, K, THETA = 4, 10, 7, 3, 0.3
X = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
DEAD = torch.tensor([i in (1, 4, 5, 8) for i in range(D_SAE)])
ACT_FNS: dict[str, ActFnConfig] = {
    "relu": ReLUConfig(),
    "topk": TopKConfig(k=K),
    "batchtopk": BatchTopKConfig(k=K),
    "jumprelu": JumpReLUConfig(jumprelu_init_threshold=THETA),
    "gated": GatedConfig(),
}
ACT_FN_NEEDED = {HasThreshold: "jumprelu", HasGate: "gated", TakesAnyK: "topk"}


def dictionary(act_fn: str, *, scaled: bool = False, **geometry: object) -> Dictionary:
    """Random weights; thresholds cut in the middle of pre. With `scaled`, latents are selected by pre * norm."""
    config = DictionaryConfig(
        widths=Widths(reads=(WIDTH,), writes=(WIDTH,)),
        d_sae=D_SAE,
        geometry=SAEConfig.model_validate(geometry),
        act_fn=ACT_FNS[act_fn],
        sparsity_include_decoder_norm=scaled,
    )
    made, generator = Dictionary(config).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name == "sparsity.log_threshold":
                parameter.fill_(math.log(THETA))  # in float64, where it was made in float32
            else:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return made.train()


def progress(
    loss: Loss | None = None, *, warm_up: float = 1.0, dead: Tensor = DEAD, step: int = 0, steps: int = 1
) -> TrainingStep:
    """The start of training, warmed up, with some dead latents."""
    return TrainingStep(warm_up, dead, step, steps, memory=loss.memory() if loss else {})


def small(kind: str) -> tuple[Loss, Dictionary]:
    """A loss with every required coefficient 0.7, and a dictionary that has what it needs."""
    model = LOSSES[kind]
    required = {name: 0.7 for name, field in model.model_fields.items() if field.is_required()}
    act_fn = next((ACT_FN_NEEDED[need] for need in model.needs), "relu")
    return model(**required), dictionary(act_fn, apply_b_dec_to_input=False)


@dataclass
class Expected:
    """The forward pass in NumPy: `pre` as the geometry gives it, `selected` before codes are divided by norms."""

    pre: np.ndarray
    norms: np.ndarray
    selected: np.ndarray
    codes: np.ndarray
    reconstruction: np.ndarray


def weights(of: Dictionary) -> dict[str, np.ndarray]:
    """Parameters of geometry and activation function by name."""
    return {
        name: value.detach().numpy().copy()
        for part in (of.geometry, of.sparsity)
        for name, value in part.named_parameters()
    }


def parameter(of: Dictionary, name: str) -> nn.Parameter:
    """A parameter of geometry or activation function by its own name."""
    return next(value for full_name, value in of.named_parameters() if full_name.endswith(f".{name}"))


def gradient(of: Dictionary, name: str) -> Tensor:
    """The gradient of such a parameter, which must have one."""
    grad = parameter(of, name).grad
    assert grad is not None, name
    return grad


def relu(pre: np.ndarray) -> np.ndarray:
    return np.maximum(pre, 0)


def keep_largest(positive: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest values of a flat array, zeros elsewhere."""
    kept = np.zeros_like(positive)
    chosen = np.argsort(-positive)[:count]
    kept[chosen] = positive[chosen]
    return kept


def topk(pre: np.ndarray, k: int) -> np.ndarray:
    return np.stack([keep_largest(token, k) for token in relu(pre)])


def activate(act_fn: str, pre: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    match act_fn:
        case "relu":
            return relu(pre)
        case "topk":
            return topk(pre, K)
        case "batchtopk":
            return keep_largest(relu(pre).ravel(), K * len(pre)).reshape(pre.shape)
        case "jumprelu":
            return np.where(pre > THETA, pre, 0)
        case _:
            return np.where(pre + w["b_gate"] > 0, relu(pre * np.exp(w["r_mag"]) + w["b_mag"]), 0)


def expected(of: Dictionary) -> Expected:
    w, config = weights(of), of.config
    subtracted = isinstance(config.geometry, SAEConfig) and config.geometry.apply_b_dec_to_input
    centered = X.numpy() - w["b_dec"] if subtracted else X.numpy()
    pre = centered @ w["W_enc"] + w.get("b_enc", 0)
    norms = np.sqrt((w["W_dec"] ** 2).sum(1))
    units = norms if config.sparsity_include_decoder_norm else np.ones_like(norms)
    selected = activate(config.act_fn.kind, pre * units, w)
    codes = selected / units
    return Expected(pre, norms, selected, codes, codes @ w["W_dec"] + w["b_dec"])


def mean_squared_error(reconstruction: np.ndarray) -> float:
    """By token and dimension, one by one."""
    return sum((a - b) ** 2 for a, b in zip(reconstruction.ravel(), X.numpy().ravel(), strict=True)) / TOKENS
