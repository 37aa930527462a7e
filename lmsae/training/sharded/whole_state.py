"""The state of a run over several processes as that of a run in one: gathered, and divided again.

A checkpoint holds whole tensors, so that any number of processes can go on from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_dictionary import take_stretch

State = dict[str, Any]
Change = Callable[[Tensor, int], Tensor]
"""From a tensor and the dimension in which it counts latents to another one of the same kind."""


class LatentDimensions:
    """The dimensions in which the tensors of a run's state count latents: as those of its parameters do."""

    def __init__(self, by_name: Mapping[str, int], parameters: Mapping[str, Tensor], learning: Sequence[Optimizer]):
        """`by_name` is of a dictionary's state, and `parameters` are its own, by name."""
        self._by_name = by_name
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._by_number = [
            [by_name.get(names[id(one)]) for group in optimizer.param_groups for one in group["params"]]
            for optimizer in learning
        ]

    def change(self, state: State, change: Change) -> State:
        """A run's state with each tensor that counts latents changed. All others are those of the given state."""
        changed = dict(state)
        changed["dictionary"] = self.change_by_name(state["dictionary"], change)
        changed["since_fired"] = change(state["since_fired"], 0)
        changed["optimizers"] = [
            {**one, "state": dict(self._of_parameters(one["state"], dimensions, change))}
            for one, dimensions in zip(state["optimizers"], self._by_number, strict=True)
        ]
        if state["ema"]:
            updates, sums = state["ema"]
            changed["ema"] = (updates, self.change_by_name(sums, change))
        return changed

    def change_by_name(self, tensors: Mapping[str, Tensor], change: Change) -> dict[str, Tensor]:
        """Tensors by the names of a dictionary's state, with each that counts latents changed."""
        return {
            name: change(value, self._by_name[name]) if name in self._by_name else value
            for name, value in tensors.items()
        }

    def _of_parameters(
        self, moments: Mapping[int, Mapping[str, Any]], dimensions: Sequence[int | None], change: Change
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The numbers, and tensors of the parameter's shape, that an optimizer remembers of each parameter."""
        for number, kept in moments.items():
            dim = dimensions[number]
            yield (
                number,
                {
                    name: change(value, dim) if dim is not None and torch.is_tensor(value) and value.ndim else value
                    for name, value in kept.items()
                },
            )


def gather(value: Tensor, dim: int, processes: Processes, latents: int) -> Tensor:
    """The whole of a tensor of so many latents, on the CPU of the first process; in the others their own part."""
    rows = value.detach().movedim(dim, 0).cpu()
    if not processes.is_first:
        processes.send_to_first(rows)
        return value
    whole = rows.new_empty(latents, *rows.shape[1:])
    whole[processes.latents(latents)] = rows
    for rank in range(1, processes.count):
        processes.receive(whole[processes.latents(latents, rank)], rank)
    return whole.movedim(0, dim)


def take_own(value: Tensor, dim: int, processes: Processes, latents: int) -> Tensor:
    """This process's part of a tensor of so many latents."""
    assert value.shape[dim] == latents
    return take_stretch(value, dim, processes.latents(latents))
