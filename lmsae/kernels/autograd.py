"""The context of a torch.autograd.Function, as a type."""

from typing import Protocol

from torch import Tensor


class Context(Protocol):
    """The context that torch hands to `forward` and `backward`. A subclass names what `forward` sets beside tensors."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    @property
    def needs_input_grad(self) -> tuple[bool, ...]: ...
    def save_for_backward(self, *tensors: Tensor) -> None: ...
