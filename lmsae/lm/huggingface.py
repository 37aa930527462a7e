"""A HuggingFace transformers model as a LanguageModel: hooks at the modules of families.py, and an early stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lmsae.lm import hook_points as points
from lmsae.lm.pretrained import load_pretrained
from lmsae.lm.probing import require_numbers
from lmsae.lm.visits import Visit, VisitedModel, edit_visits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(folder: Path, dtype: str, device: str, trust_remote_code: bool = False) -> "HuggingFaceModel":
    """The model in a folder, with the attention that transformers chooses.

    That is sdpa, except where sdpa cannot compute what the family needs (Gemma 2's softcap).

    Raises SourceError for a model that cannot be loaded whole, or computes no numbers.
    """
    model = HuggingFaceModel(load_pretrained(folder, dtype, device, trust_remote_code))
    require_numbers(model, folder, dtype)
    return model


class HuggingFaceModel(VisitedModel):
    """A causal LM of transformers behind the LanguageModel protocol."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__(model.config.to_dict(), model.device, dict(model.named_parameters()))
        self._model = model
        self._stand_in: _StandIn | None = None
        self._tried_to_skip = False

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def _forward(self, tokens: Tensor) -> Tensor:
        return self._model(input_ids=tokens, use_cache=False).logits

    def _can_skip(self) -> bool:
        """True if the logits are the same to the bit without the layers before the last one.

        Tried once, on a few tokens, since in some architectures a later layer takes more from earlier ones than the
        residual stream.
        """
        if not self._tried_to_skip:
            self._tried_to_skip = True
            last = f"blocks.{points.count_layers(self.config) - 1}.hook_resid_pre"
            tokens = torch.arange(TRIED).reshape(2, -1) % self.d_vocab
            residual = self.read(tokens, [last])[last]
            expected = self.logits(tokens)
            self.logits(tokens.flip(0))  # whatever a layer keeps of the last pass is of other tokens
            replaced = edit_visits({last: lambda _: residual})
            for stand_in in _STAND_INS:
                with suppress(Exception), torch.no_grad(), self._one_at_a_time, self._visiting(replaced):
                    with self._skipping(points.layer_of(last), stand_in):
                        found = self._run(tokens)
                    if torch.equal(found, expected):
                        self._stand_in = stand_in
                        break
        return self._stand_in is not None

    @contextmanager
    def _skipping(self, layers: int, stand_in: "_StandIn | None" = None) -> Iterator[None]:
        stack = self._model.get_submodule(points.family_of(self.config).layers)
        skipped = [module for number, module in enumerate(stack.children()) if number < layers]
        own = [vars(module).get("forward") for module in skipped]
        for module in skipped:
            vars(module)["forward"] = stand_in or self._stand_in
        try:
            yield
        finally:
            for module, forward in zip(skipped, own, strict=True):
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward

    @contextmanager
    def _visiting(self, visits: Mapping[str, Visit]) -> Iterator[None]:
        family = points.family_of(self.config)
        with ExitStack() as hooks:
            for name, visit in visits.items():
                points.require(name, self.config)
                layer, kind = points.split(name)
                where = family.hook_points[kind]
                module = self._model.get_submodule(f"{family.layers}.{layer}.{where.module}".rstrip("."))
                hooks.enter_context(_HOOKS[where.side](module, visit))
            yield


_Output = Tensor | tuple[Tensor, ...]
_StandIn = Callable[..., _Output]


def _pass_on(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    return hidden_states


def _pass_on_in_tuple(hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, ...]:
    return (hidden_states,)


_STAND_INS: tuple[_StandIn, ...] = (_pass_on, _pass_on_in_tuple)
"""Layers that leave the residual stream as it is, in the two ways in which layers of transformers return it."""
TRIED = 8
"""Tokens on which leaving layers out is tried."""


def _hook_input(module: torch.nn.Module, visit: Visit) -> RemovableHandle:
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        replaced = visit(inputs[0])
        return None if replaced is None else (replaced, *inputs[1:])

    return module.register_forward_pre_hook(hook)


def _hook_output(module: torch.nn.Module, visit: Visit) -> RemovableHandle:
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: _Output) -> _Output | None:
        # Attention modules return (output, weights), and most others a bare tensor.
        replaced = visit(output[0] if isinstance(output, tuple) else output)
        if replaced is None:
            return None
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    return module.register_forward_hook(hook)


_HOOKS: dict[str, Callable[[torch.nn.Module, Visit], RemovableHandle]] = {"in": _hook_input, "out": _hook_output}
