"""Optimizers by their names in `train.optimizer`: one for all parameters, or two that share them."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmsae.errors import SourceError
from lmsae.training.config import TrainConfig
from lmsae.training.sparse_adam import SparseAdam

Named = tuple[str, nn.Parameter]
MUON_MOMENTUM = 0.95
DECODERS = ("W_dec", "W_skip", "U", "V")
"""Weights that write; thresholds and biases apart, all others read."""


class AdamSettings(TypedDict):
    """Adam's settings."""

    betas: tuple[float, float]
    eps: float


def freeze(config: TrainConfig, parameters: Iterable[Named]) -> None:
    """Take the gradient from the named parameters whose learning rate has a factor of 0; no step then touches them."""
    for name, parameter in parameters:
        parameter.requires_grad_(_choose_lr_factor(config, name) > 0)


def build(config: TrainConfig, parameters: Iterable[Named], lr: float) -> tuple[Optimizer, ...]:
    """The optimizers of those named parameters that take a gradient, each of which belongs to exactly one of them;
    none where all are frozen.

    Thresholds, biases, what reads and what writes learn at `lr` times the factor of each; only matrices decay. Every
    group keeps its own rate in `base_lr`. Raises SourceError where a library is missing.
    """
    learning = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    optimizers = _BUILDERS[config.optimizer](config, learning, lr) if learning else ()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def set_final_weights(optimizer: Optimizer) -> None:
    """Set the parameters to the weights to use, where an optimizer (schedule-free) trains on others."""
    switch: Callable[[], None] | None = getattr(optimizer, "eval", None)
    if switch:
        switch()


def set_training_weights(optimizer: Optimizer) -> None:
    """Set the parameters back to the weights that it trains on, up to rounding."""
    switch: Callable[[], None] | None = getattr(optimizer, "train", None)
    if switch:
        switch()


def _make_groups(config: TrainConfig, parameters: Iterable[Named], lr: float) -> list[dict[str, object]]:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        rate = lr * _choose_lr_factor(config, name)
        decay = config.weight_decay if _is_matrix(name, parameter) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def _choose_lr_factor(config: TrainConfig, name: str) -> float:
    own = next(part for part in reversed(name.split(".")) if not part.isdigit())
    if own.endswith("threshold"):
        return config.threshold_lr_factor
    if own.startswith("b_"):
        return config.bias_lr_factor
    return config.decoder_lr_factor if own in DECODERS else config.encoder_lr_factor


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True if a parameter is a matrix or a stack of matrices; the biases of several heads are not."""
    return parameter.ndim > 1 and not name.rpartition(".")[2].startswith("b_")


def _build_adam(config: TrainConfig, parameters: list[Named], lr: float) -> tuple[Optimizer, ...]:
    adam = torch.optim.Adam(
        _make_groups(config, parameters, lr), decoupled_weight_decay=True, fused=True, **_read_moments(config)
    )
    return (adam,)


def _build_sparse_adam(config: TrainConfig, parameters: list[Named], lr: float) -> tuple[Optimizer, ...]:
    return (SparseAdam(_make_groups(config, parameters, lr), **_read_moments(config)),)


def _build_muon(config: TrainConfig, parameters: list[Named], lr: float) -> tuple[Optimizer, ...]:
    # torch's Muon takes matrices only, not stacks of them.
    matrices = [(name, value) for name, value in parameters if _is_matrix(name, value) and value.ndim == 2]
    taken = {name for name, _ in matrices}
    others = [(name, value) for name, value in parameters if name not in taken]
    adam = _build_adam(config, others, lr) if others else ()
    if not matrices:
        return adam
    muon = torch.optim.Muon(_make_groups(config, matrices, lr), momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw")
    return (muon, *adam)


def _build_schedule_free(config: TrainConfig, parameters: list[Named], lr: float) -> tuple[Optimizer, ...]:
    library = _import_library("schedulefree", config)
    optimizer = library.AdamWScheduleFree(_make_groups(config, parameters, lr), **_read_moments(config))
    optimizer.train()
    return (optimizer,)


def _read_moments(config: TrainConfig) -> AdamSettings:
    return {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_eps}


def _import_library(name: str, config: TrainConfig) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise SourceError(
            f"train.optimizer {config.optimizer} needs the library {name}, which is not installed: "
            "pip install 'lmsae[optimizers]', or choose adam"
        ) from None


_BUILDERS: Mapping[str, Callable[[TrainConfig, list[Named], float], tuple[Optimizer, ...]]] = {
    "adam": _build_adam,
    "sparse_adam": _build_sparse_adam,
    "muon": _build_muon,
    "schedule_free": _build_schedule_free,
}


def set_lr_factor(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to its own base times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


@torch.no_grad()
def clear_moments(optimizer: Optimizer, parameter: nn.Parameter, dim: int, chosen: Tensor) -> None:
    """Set an optimizer's moments to 0 for the chosen places of a parameter's dimension.

    A schedule-free optimizer's second copy of the weights, `z`, takes their present values there.
    """
    for name, moments in optimizer.state.get(parameter, {}).items():
        if not torch.is_tensor(moments) or moments.shape != parameter.shape:
            continue
        if name == "z":
            moments.index_copy_(dim, chosen, parameter.index_select(dim, chosen))
        else:
            moments.index_fill_(dim, chosen, 0)
