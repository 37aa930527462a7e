"""Checks of a dictionary that several processes are to train: what they cannot do together is refused."""

from collections.abc import Iterator, Mapping
from typing import Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import GEOMETRIES
from lmsae.losses import LOSSES
from lmsae.planning.draft import Check, Refusal
from lmsae.sparsity.config import ACT_FNS
from lmsae.stages.activations import ActivationsSection
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective

COLUMN = "train.shards"
OPTIMIZERS = ("adam", "sparse_adam")


def parts_can_be_sharded(train: TrainConfig, dictionary: DictionaryConfig, objective: Objective) -> Iterator[Refusal]:
    geometry, act_fn = dictionary.geometry, dictionary.act_fn
    if train.shards == 1:
        return
    if not geometry.shardable:
        yield _refuse(train, f"sae.geometry {geometry.kind}", GEOMETRIES)
    if not act_fn.shardable:
        yield _refuse(train, f"sae.act_fn {act_fn.kind}", ACT_FNS)
    for loss in objective.losses:
        if not loss.shardable:
            yield _refuse(train, f"sae.losses {loss.kind}", LOSSES)
    if train.shards > dictionary.d_sae:
        yield Refusal(COLUMN, f"is {train.shards}, but there are only {dictionary.d_sae:,} latents; lower it")


def training_can_be_sharded(train: TrainConfig) -> Iterator[Refusal]:
    if train.shards == 1:
        return
    if train.optimizer not in OPTIMIZERS:
        able = " and ".join(OPTIMIZERS)
        message = f"is {train.shards}, but train.optimizer {train.optimizer} looks at more than one weight at a time"
        yield Refusal(COLUMN, f"{message}: {able} work over several processes. Leave it at 1, or use adam")
    for column in ("resample_steps", "eval_steps", "keep_steps"):
        if getattr(train, column):
            message = f"is {train.shards}, and train.{column} works in one process alone"
            yield Refusal(COLUMN, f"{message}. Leave it at 1, or leave train.{column} at 0")


def activations_can_be_shared(train: TrainConfig, activations: ActivationsSection) -> Iterator[Refusal]:
    if train.shards > 1 and activations.source == "live":
        message = f"is {train.shards}, and with activations.source live each process would run the model for itself"
        yield Refusal(COLUMN, f"{message}. Leave it at 1, or store activations (activations.source cached)")


def _refuse(train: TrainConfig, found: str, known: Mapping[str, Any]) -> Refusal:
    able = ", ".join(kind for kind, config in known.items() if config.shardable)
    message = f"is {train.shards}, but {found} cannot be divided among processes; these can: {able}. Leave it at 1"
    return Refusal(COLUMN, message)


CHECKS: tuple[Check, ...] = (parts_can_be_sharded, training_can_be_sharded, activations_can_be_shared)
