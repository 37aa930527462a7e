"""A Run: one dictionary learning from batches that somebody hands to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import TrainingError
from lmsae.geometry.linear import Linear
from lmsae.losses import Forward, Loss, TrainingStep, reconstruction_loss
from lmsae.sparsity.capabilities import TakesAnyK
from lmsae.training import curves, optimizers, resampling
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.ema import WeightMean
from lmsae.training.optimizers import set_lr_factor
from lmsae.training.soft_frozen import SoftFrozenRows
from lmsae.training.unit_rows import normalize_rows, remove_radial_gradient

if TYPE_CHECKING:
    from lmsae.training.objective import Objective
    from lmsae.training.onlooker import Onlooker
    from lmsae.training.splice import Splice


State = dict[str, Any]
"""All that a run's steps change: tensors, numbers, lists and dicts by name, as a checkpoint holds them."""


class Run:
    """One dictionary, its optimizers, schedules, memories and counters. Nothing outside `step` changes them."""

    def __init__(
        self,
        dictionary: Dictionary,
        objective: Objective,
        config: TrainConfig,
        name: str,
        log: curves.Log | None = None,
        splice: Splice | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self.dictionary = dictionary.train().requires_grad_(True)
        self.objective, self.config, self.name, self.log = objective, config, name, log
        self.splice, self.onlooker = splice, onlooker
        self.steps_done = 0
        self.curves: list[dict[str, float]] = []
        latents = dictionary.geometry.latents
        device = self.device
        self.lr = config.peak_lr(latents)
        optimizers.freeze(config, dictionary.named_parameters())
        self.soft_frozen = SoftFrozenRows(dictionary.geometry, config.decoder_min_cosine)
        self.optimizers = optimizers.build(config, dictionary.named_parameters(), self.lr)
        self.since_fired = torch.zeros(latents, dtype=torch.int64, device=device)
        self.memory = {
            loss.kind: {name: value.to(device) for name, value in loss.memory().items()} for loss in objective.losses
        }
        self.ema = WeightMean(self._learning(), config.ema) if config.ema else None
        entrywise = dictionary.entrywise and all(loss.entrywise for loss in objective.losses)
        self._pass = dictionary.entrywise_pass if entrywise else dictionary.training_pass
        self._reconstructs = not any(loss.replaces_reconstruction for loss in objective.losses)

    @property
    def device(self) -> torch.device:
        return next(self.dictionary.parameters()).device

    @property
    def device_of_states(self) -> torch.device:
        """The device that `go_on_from` takes a state on."""
        return self.device

    @property
    def is_finished(self) -> bool:
        return self.steps_done >= self.config.steps

    def step(self, batch: Batch) -> None:
        """One optimizer step on a batch, which stays as it is. Raises TrainingError when the loss is not finite."""
        step, config = self.steps_done, self.config
        k = self._choose_k()
        lr_factor = config.lr_factor(step)
        tally = curves.Tally() if curves.is_point(step, config.steps) else None
        dead = self.since_fired >= config.dead_threshold
        self._accumulate(batch, dead, k, tally)
        self._update_weights(lr_factor)
        if tally:
            self._record({**tally.summarize(), "dead": int(dead.sum()), "lr": self.lr * lr_factor})
        self.steps_done += 1
        if config.resamples_after(step):
            self._resample(batch, k)
        if self.is_finished:
            self._finish()
        elif self.onlooker:
            self.onlooker.look(self)

    def count_dead(self) -> int:
        """The latents that have not fired for `train.dead_threshold` tokens."""
        return int((self.since_fired >= self.config.dead_threshold).sum())

    def copy_dictionary(self) -> Dictionary:
        """A copy of the dictionary with the weights that would be saved if training ended here, for inference. Its
        learned threshold is the running one. The run stays as it is, to the last bit."""
        if self.is_finished:
            return deepcopy(self.dictionary).eval().requires_grad_(False)
        with self._weights_to_save():
            return deepcopy(self.dictionary).eval().requires_grad_(False)

    @contextmanager
    def _weights_to_save(self) -> Iterator[None]:
        """Within the block the dictionary has the weights that would be saved, and then its own again."""
        own = {name: weights.detach().clone() for name, weights in self.dictionary.named_parameters()}
        try:
            self._set_weights_to_save()
            yield
        finally:
            for optimizer in self.optimizers:
                optimizers.set_training_weights(optimizer)
            with torch.no_grad():
                for name, weights in self.dictionary.named_parameters():
                    weights.copy_(own[name])

    def _accumulate(self, batch: Batch, dead: Tensor, k: int | None, tally: curves.Tally | None) -> None:
        """Gradients of a batch, part by part, and what is learned from it without them."""
        tokens, fired = batch.tokens, torch.zeros_like(dead)
        training = {loss.kind: self._describe_step(dead, self.memory[loss.kind]) for loss in self.objective.losses}
        forward: Forward | None = None
        for part in batch.split(self.config.gradient_accumulation):
            share = part.tokens / tokens
            forward, terms = self._compute_losses(part, training, k)
            if self.optimizers:
                (share * torch.stack(list(terms.values())).sum()).backward()
            fired |= forward.codes.find_fired()
            if tally:
                tally.add(forward, terms, share)
        self.since_fired += tokens
        self.since_fired.masked_fill_(fired, 0)
        assert forward is not None, "a batch has tokens"
        # Once a step, whatever the number of parts: the last one stands for the batch.
        with torch.no_grad():
            self.dictionary.observe(forward)
            for loss in self.objective.losses:
                loss.observe(self.memory[loss.kind], forward, training[loss.kind])

    def _compute_losses(
        self, batch: Batch, training: dict[str, TrainingStep], k: int | None
    ) -> tuple[Forward, dict[str, Tensor]]:
        x, target = self.dictionary.normalize(batch.x, batch.target)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            forward = self._pass(x, target, batch.usable, k)
            if self.splice:
                forward = replace(forward, model=self.splice.run(self.dictionary, batch, forward.reconstruction))
            terms = {"reconstruction": reconstruction_loss(forward)} if self._reconstructs else {}
            for loss in self.objective.losses:
                terms[loss.kind] = self._measure(loss, forward, training[loss.kind])
        return forward, terms

    def _measure(self, loss: Loss, forward: Forward, training: TrainingStep) -> Tensor:
        """The value of a loss."""
        return loss(self.dictionary.geometry, self.dictionary.sparsity, forward, training)

    def _describe_step(self, dead: Tensor, memory: dict[str, Tensor]) -> TrainingStep:
        config = self.config
        return TrainingStep(
            sparsity_warm_up=config.sparsity_factor(self.steps_done),
            dead=dead,
            step=self.steps_done,
            steps=config.steps,
            seed=config.seed,
            memory=memory,
            # A latent is dead after so many silent tokens: before them none can be.
            all_alive=self.steps_done * config.batch_size < config.dead_threshold,
        )

    def _choose_k(self) -> int | None:
        """k of the next step; None where it has no schedule."""
        sparsity = self.dictionary.sparsity
        if not self.config.initial_k:
            return None
        assert isinstance(sparsity, TakesAnyK), "a schedule of k is refused for others"
        return self.config.k_at(self.steps_done, sparsity.k)

    @property
    def _decoder_rows(self) -> nn.Parameter:
        return self.dictionary.geometry.get_parameter("W_dec")

    @property
    def _keeps_unit_rows(self) -> bool:
        """True if decoder rows must be brought back to norm 1. Frozen ones have never left it."""
        return self.objective.unit_norm_decoder and self._decoder_rows.requires_grad

    def _learning(self) -> list[optimizers.Named]:
        """The parameters that are not frozen, by name."""
        return [(name, value) for name, value in self.dictionary.named_parameters() if value.requires_grad]

    def _update_weights(self, lr_factor: float) -> None:
        if self._keeps_unit_rows:
            remove_radial_gradient(self._decoder_rows)
        if self.config.grad_clip:
            self._clip_gradients(self.config.grad_clip)
        for optimizer in self.optimizers:
            set_lr_factor(optimizer, lr_factor)
            optimizer.step()
            optimizer.zero_grad()
        self._constrain_rows()
        if self.ema:
            self.ema.update(self._learning())

    def _clip_gradients(self, most: float) -> None:
        """Bring the norm of the gradient down to `most`, if it is larger."""
        torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), most)

    def _constrain_rows(self) -> None:
        """Bring decoder rows back to where they may be."""
        self.soft_frozen.bring_back(self.dictionary.geometry)
        if self._keeps_unit_rows:
            normalize_rows(self._decoder_rows)

    @torch.no_grad()
    def _resample(self, batch: Batch, k: int | None) -> None:
        """Dead latents begin anew from the badly reconstructed tokens of a batch."""
        dead = self.since_fired >= self.config.dead_threshold
        if not dead.any():
            return
        geometry = self.dictionary.geometry
        assert isinstance(geometry, Linear), "resampling is refused for others"
        x, losses = [], []
        for part in batch.split(self.config.gradient_accumulation):
            forward = self.dictionary.training_pass(*self.dictionary.normalize(part.x, part.target), part.usable, k)
            x.append(forward.x)
            losses.append((forward.reconstruction - forward.target).pow(2).sum(1))
        seed = (self.config.seed, self.steps_done)
        new = resampling.draw_rebirth(geometry, torch.cat(x), torch.cat(losses), dead, seed)
        new.apply(geometry, self.optimizers, self.ema)
        self.since_fired[new.latents] = 0

    def _finish(self) -> None:
        """Bring the weights to what is saved."""
        self._set_weights_to_save()
        for name, weights in self.dictionary.named_parameters():
            if not weights.isfinite().all():
                raise self._describe_breakdown(f"{name} is not finite")

    def _set_weights_to_save(self) -> None:
        if self.ema:
            self.ema.copy_to(self._learning())
            self._constrain_rows()
        for optimizer in self.optimizers:
            optimizers.set_final_weights(optimizer)

    def state(self) -> State:
        """All that steps change, as tensors, numbers, lists and dicts; what cannot change is the config's."""
        return {
            "steps_done": self.steps_done,
            "dictionary": dict(self.dictionary.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "since_fired": self.since_fired,
            "memory": self.memory,
            "ema": (self.ema.updates, self.ema.sums) if self.ema else None,
            "curves": self.curves,
            "onlooker": self.onlooker.state() if self.onlooker else None,
        }

    def go_on_from(self, state: State) -> None:
        """Take over the `state` of a run of the same config, or of one that did the same so far (forks.py), on this
        run's device: the next step is the one that would have come there. The log hears the points so far."""
        self.dictionary.load_state_dict(state["dictionary"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps_done = state["steps_done"]
        self.curves = [point for point in state["curves"] if curves.is_point(int(point["step"]), self.config.steps)]
        self.since_fired, self.memory = state["since_fired"], state["memory"]
        if self.ema:
            self.ema.updates, self.ema.sums = state["ema"]
        if self.log:
            points: list[Any] = [*self.curves, *(self.onlooker.points if self.onlooker else ())]
            for point in sorted(points, key=lambda point: point["step"]):
                self.log(point)

    def write_curves(self, path: Path) -> None:
        """Write the training curves as csv, one line a recorded step."""
        curves.write(self.curves, path)

    def close(self) -> None:
        """Say to the log that no more points will come."""
        if self.log:
            self.log.finish()

    def _record(self, measured: dict[str, float]) -> None:
        if not math.isfinite(measured["loss"]):
            raise self._describe_breakdown(f"the loss is {measured['loss']}")
        point = {"step": self.steps_done, "tokens": (self.steps_done + 1) * self.config.batch_size, **measured}
        self.curves.append(point)
        if self.log:
            self.log(point)

    def _describe_breakdown(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.name}: {what} at step {self.steps_done} of {self.config.steps}. Lower train.lr or the sparsity "
            "coefficient, or set train.grad_clip."
        )
