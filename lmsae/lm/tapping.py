"""Taps at the modules of a transformers model: what goes in or comes out of one, as (batch, context, width)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lmsae.errors import HookPointError, suggest
from lmsae.lm import hook_points as points
from lmsae.lm.visits import Visit

INPUT = "hidden_states"
"""The name of the input that transformers' modules are given by name."""


class Tap:
    """A visit at one side of a module.

    A module's activations are one tensor (batch, context, width), or the first thing of a tuple; or (batch * context,
    width), which is put into that shape. `is_copied` says that the model may overwrite the tensor as it goes on: then
    the visit sees a copy, and so does the model of what takes its place. `shape` gives the batch and context of the
    forward pass that runs.
    """

    def __init__(self, name: str, visit: Visit, is_copied: bool, shape: Callable[[], tuple[int, int]]) -> None:
        self.name, self.calls = name, 0
        self._visit, self._is_copied, self._shape = visit, is_copied, shape

    def attach(self, module: torch.nn.Module, side: Literal["in", "out"]) -> RemovableHandle:
        """Hook the module. The handle removes the hook."""
        if side == "in":
            return module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        return module.register_forward_hook(self._on_output)

    def _on_input(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        replaced = self._meet(args[0] if args else kwargs.get(INPUT, kwargs))
        if replaced is None:
            return None
        return ((replaced, *args[1:]), kwargs) if args else (args, kwargs | {INPUT: replaced})

    def _on_output(self, module: torch.nn.Module, args: tuple, output: object) -> object:
        # Attention modules return (output, weights), and most others a bare tensor.
        replaced = self._meet(output[0] if isinstance(output, tuple) and output else output)
        if replaced is None:
            return None
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    def _meet(self, found: object) -> Tensor | None:
        """Make the visit. Raises HookPointError if this is not what a hook point yields, or not the only one."""
        self.calls += 1
        if self.calls > 1 and points.is_module(self.name):
            raise HookPointError(
                f"{self.name} runs several times in one forward pass, so it names no one place: name a module that "
                "runs once, such as a layer"
            )
        batch, context = self._shape()
        if not isinstance(found, Tensor) or (
            found.shape[:2] != (batch, context) if found.ndim == 3 else found.shape[:-1] != (batch * context,)
        ):
            raise HookPointError(
                f"{self.name} yields {_describe(found)} for tokens ({batch}, {context}); a hook point yields one "
                "tensor (batch, context, width), or a tuple that begins with one. Name another module, or its input "
                "by :in"
            )
        seen = found.reshape(batch, context, found.shape[-1])
        replaced = self._visit(seen.clone() if self._is_copied else seen)
        if replaced is None:
            return None
        return (replaced.clone() if self._is_copied else replaced).reshape(found.shape)


def find_module(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module of this name. Raises HookPointError, with the nearest names, if there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = [known for known, _ in model.named_modules() if known]
        raise HookPointError(f"this model has no module {name!r}{suggest(name, known)}") from None


def require_tapped(taps: Sequence[Tap]) -> None:
    """Raise HookPointError if a forward pass that has ended did not run one of the modules."""
    idle = [tap.name for tap in taps if not tap.calls]
    if idle:
        raise HookPointError(
            f"the forward pass never runs {idle[0]} (the model reads its weights otherwise, or not for text); name "
            "another module"
        )


def _describe(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        inner = ", ".join(_describe(one) for one in found[:3]) + (", ..." if len(found) > 3 else "")
        return f"a {type(found).__name__} of {len(found)} ({inner})"
    if isinstance(found, dict):
        return f"arguments by name ({', '.join(map(str, found)) or 'none'})"
    return "nothing" if found is None else f"a {type(found).__name__}"
