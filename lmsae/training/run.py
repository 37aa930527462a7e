"""A Run: one dictionary learning from batches that somebody hands to it."""

import csv
import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lmsae import schedules
from lmsae.catalog import Objective
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import TrainingError
from lmsae.losses import Forward, Progress, reconstruction_loss
from lmsae.optim import adam, normalise_rows, remove_radial_gradient, set_lr_factor
from lmsae.training.config import TrainConfig

CURVE_POINTS = 200


class Log(Protocol):
    """Where curve points go as they are made, besides the curves themselves."""

    def __call__(self, point: dict[str, float]) -> None: ...

    def finish(self) -> None: ...


class Run:
    """One dictionary, its optimiser, schedules and counters. Nothing outside `step` changes them."""

    def __init__(
        self, dictionary: Dictionary, objective: Objective, config: TrainConfig, name: str, log: Log | None = None
    ) -> None:
        self.dictionary = dictionary.train().requires_grad_(True)
        self.objective, self.config, self.name, self.log = objective, config, name, log
        self.steps_done = 0
        self.curves: list[dict[str, float]] = []
        self.optimiser = adam(
            dictionary.named_parameters(),
            config.lr,
            (config.adam_beta1, config.adam_beta2),
            config.threshold_lr_factor,
        )
        self.since_fired = torch.zeros(dictionary.config.d_sae, dtype=torch.int64, device=dictionary.scale_in.device)

    @property
    def is_finished(self) -> bool:
        return self.steps_done >= self.config.steps

    def step(self, activations: Tensor) -> None:
        """One optimiser step on raw activations (batch, d_in). Raises TrainingError when the loss is not finite."""
        config, geometry = self.config, self.dictionary.geometry
        progress = Progress(
            sparsity_warm_up=schedules.warm_up(self.steps_done, config.steps, config.sparsity_warm_up_steps),
            dead=self.since_fired >= config.dead_threshold,
        )
        lr_factor = schedules.trapezoid(
            self.steps_done, config.steps, config.lr_warm_up_steps, config.lr_cool_down_steps, config.lr_end_ratio
        )
        x = activations * self.dictionary.scale_in
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            forward = self.dictionary.training_pass(x, x)
            terms = {"reconstruction": reconstruction_loss(forward)}
            for loss in self.objective.losses:
                terms[loss.kind] = loss(geometry, self.dictionary.sparsity, forward, progress)
            total = torch.stack(list(terms.values())).sum()
        total.backward()
        if self.objective.unit_norm_decoder:
            remove_radial_gradient(geometry.W_dec)
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), config.grad_clip)
        set_lr_factor(self.optimiser, lr_factor)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.objective.unit_norm_decoder:
            normalise_rows(geometry.W_dec)
        self._observe(forward)
        if self._is_curve_point():
            self._record(forward, terms, progress, lr_factor)
        self.steps_done += 1
        if self.is_finished:
            self._require_finite_weights()

    def write_curves(self, path: Path) -> None:
        """Write the training curves as csv, one line a recorded step."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.curves[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.curves)

    def close(self) -> None:
        """Say to the log that no more points will come."""
        if self.log:
            self.log.finish()

    @torch.no_grad()
    def _observe(self, forward: Forward) -> None:
        codes = forward.codes.detach()
        self.dictionary.sparsity.observe(codes)
        self.since_fired += len(codes)
        self.since_fired.masked_fill_((codes != 0).any(0), 0)

    def _is_curve_point(self) -> bool:
        every = max(1, self.config.steps // CURVE_POINTS)
        return self.steps_done % every == 0 or self.steps_done == self.config.steps - 1

    @torch.no_grad()
    def _record(self, forward: Forward, terms: dict[str, Tensor], progress: Progress, lr_factor: float) -> None:
        target = forward.target
        variance = (target - target.mean(0)).pow(2).sum(-1).mean().item()
        point = {
            "step": self.steps_done,
            "tokens": (self.steps_done + 1) * self.config.batch_size,
            "loss": sum(term.item() for term in terms.values()),
            **{f"{name}_loss": term.item() for name, term in terms.items()},
            "explained_variance": 1 - terms["reconstruction"].item() / variance if variance else math.nan,
            "l0": (forward.codes != 0).sum(-1).float().mean().item(),
            "dead": int(progress.dead.sum()),
            "lr": self.config.lr * lr_factor,
        }
        if not math.isfinite(point["loss"]):
            raise self._breakdown(f"the loss is {point['loss']}")
        self.curves.append(point)
        if self.log:
            self.log(point)

    def _require_finite_weights(self) -> None:
        for name, weights in self.dictionary.named_parameters():
            if not weights.isfinite().all():
                raise self._breakdown(f"{name} is not finite")

    def _breakdown(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.name}: {what} at step {self.steps_done} of {self.config.steps}. Lower train.lr or the sparsity "
            "coefficient, or set train.grad_clip."
        )
