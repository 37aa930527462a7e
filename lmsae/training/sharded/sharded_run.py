"""A run in one of several processes: it trains a shard of a dictionary, and goes on as one run of the whole would."""

from typing import final

import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.codes import Codes
from lmsae.kernels.entries import Entries
from lmsae.losses import AuxK, Forward, Loss, Nested, NestedSampled, TrainingStep
from lmsae.losses.reconstruction import nested_loss
from lmsae.training.config import TrainConfig
from lmsae.training.curves import Log
from lmsae.training.objective import Objective
from lmsae.training.run import Run, State
from lmsae.training.sharded.choosing_across import choose_across
from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_dictionary import latent_dimensions
from lmsae.training.sharded.whole_state import LatentDimensions, gather, take_own


@final
class ShardedRun(Run):
    """All processes step together, on the same batches. What is one number of the whole dictionary (a loss, the norm of
    the gradient, a level of selection) is the same in each; weights, moments and times since latents fired are those of
    its own latents.

    The state is that of a run of the whole: `gather_state` collects it in the first process.
    """

    def __init__(
        self,
        shard: Dictionary,
        whole: DictionaryConfig,
        processes: Processes,
        objective: Objective,
        config: TrainConfig,
        name: str,
        log: Log | None = None,
    ) -> None:
        """`shard` is of `build_shard`, with this process's part of the weights that training starts from."""
        self.whole, self._processes = whole, processes
        # `auto` depends on the number of all latents.
        super().__init__(shard, objective, config.model_copy(update={"lr": config.peak_lr(whole.d_sae)}), name, log)
        by_name = latent_dimensions(whole, shard)
        self._shared = [value for name, value in shard.named_parameters() if name not in by_name]
        self._own = [value for name, value in shard.named_parameters() if name in by_name]
        self._dimensions = LatentDimensions(by_name, dict(shard.named_parameters()), self.optimizers)
        self._gathered: State | None = None

    @property
    def device_of_states(self) -> torch.device:
        """The CPU: no device need hold the whole."""
        return torch.device("cpu")

    def count_dead(self) -> int:
        return self._count(super().count_dead())

    def gather_state(self) -> None:
        """Collect the state of the whole run in the first process. To be called by all of them."""
        state = self._dimensions.change(super().state(), self._collect)
        self._gathered = state if self._processes.is_first else None

    def _collect(self, value: Tensor, dim: int) -> Tensor:
        return gather(value, dim, self._processes, self.whole.d_sae)

    def gather_weights(self) -> dict[str, Tensor] | None:
        """Collect the state of the whole dictionary in the first process; None in the others. To be called by all."""
        gathered = self._dimensions.change_by_name(self.dictionary.state_dict(), self._collect)
        return gathered if self._processes.is_first else None

    def forget_moments(self) -> None:
        """Free what optimizers remember: no step comes after this."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.ema = None

    def state(self) -> State:
        """The state that was gathered last, which must be that of now."""
        assert self._gathered is not None, "it is gathered first"
        assert self._gathered["steps_done"] == self.steps_done, "and right before"
        return self._gathered

    def drop_state(self) -> None:
        """Forget the state that was gathered, which is large."""
        self._gathered = None

    def go_on_from(self, state: State) -> None:
        def take(value: Tensor, dim: int) -> Tensor:
            return take_own(value, dim, self._processes, self.whole.d_sae).to(self.device)

        super().go_on_from(self._dimensions.change(state, take))

    def _measure(self, loss: Loss, forward: Forward, training: TrainingStep) -> Tensor:
        if isinstance(loss, AuxK):
            return self._measure_aux_k(loss, forward, training)
        if isinstance(loss, Nested | NestedSampled):
            own = self._processes.latents(self.whole.d_sae)
            sizes = [
                min(max(size - own.start, 0), own.stop - own.start)
                for size in loss.sizes_at(self.whole.d_sae, training)
            ]
            return nested_loss(self.dictionary.geometry, forward, sizes)
        assert loss.shardable, "others are refused when they are planned"
        return self._processes.sum(super()._measure(loss, forward, training))

    def _measure_aux_k(self, loss: AuxK, forward: Forward, training: TrainingStep) -> Tensor:
        nothing = forward.reconstruction.new_zeros(())
        if training.all_alive or not loss.aux_k_coefficient:
            return nothing
        dead = training.dead.nonzero().squeeze(1)
        count = self._count(len(dead))
        if not count:
            return nothing
        entries = self._choose_dead(forward, dead, loss.count_chosen(forward, count))
        codes: Codes = forward.codes
        return loss.compare(forward, codes.write_entries(self.dictionary.geometry, forward.x, entries))

    def _choose_dead(self, forward: Forward, dead: Tensor, k: int) -> Entries:
        """The entries of this process among the k dead latents with the largest pre of each token."""
        candidates = forward.pre.detach()[..., dead]
        begin = self._processes.latents(self.whole.d_sae).start
        columns, _, chosen = choose_across(self._processes, candidates, k, lambda columns: dead[columns] + begin)
        starts = torch.nn.functional.pad(chosen.sum(1).cumsum(0), (1, 0))
        return Entries(starts, dead[columns[chosen]], forward.pre.shape[1])

    def _clip_gradients(self, most: float) -> None:
        grads = [[one.grad for one in some if one.grad is not None] for some in (self._own, self._shared)]
        own, shared = (torch.nn.utils.get_total_norm(some).to(self.device).square() for some in grads)
        norm = (self._processes.total(own) + shared).sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.dictionary.parameters(), most, norm)

    def _record(self, measured: dict[str, float]) -> None:
        """Record a point whose loss is that of the whole, and whose counts are those of the shard."""
        counts = torch.tensor([measured["l0"], measured["dead"]], dtype=torch.float64)
        l0, dead = self._processes.total(counts).tolist()
        super()._record({**measured, "l0": l0, "dead": int(dead)})

    def _count(self, number: int) -> int:
        return int(self._processes.total(torch.tensor(number)))
