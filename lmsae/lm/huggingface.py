"""A HuggingFace transformers model as a LanguageModel: hooks at the modules of families.py, and an early stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lmsae.lm import hook_points as points
from lmsae.lm.pretrained import load_pretrained
from lmsae.lm.probing import require_numbers
from lmsae.lm.visits import Visit, VisitedModel

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


def load(folder: Path, dtype: str, device: str, trust_remote_code: bool = False) -> "HuggingFaceModel":
    """The model in a folder, with the attention that transformers chooses.

    That is sdpa, except where sdpa cannot compute what the family needs (Gemma 2's softcap).

    Raises SourceError for a model that cannot be loaded whole, or computes no numbers.
    """
    model = HuggingFaceModel(load_pretrained(folder, dtype, device, trust_remote_code))
    require_numbers(model, folder, dtype)
    return model


def start_cache(model: "PreTrainedModel") -> "Cache":
    """An empty cache for a model's keys and values. Passes fill the one that they are given."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


class HuggingFaceModel(VisitedModel):
    """A causal LM of transformers behind the LanguageModel protocol."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__(model.config.to_dict(), model.device, dict(model.named_parameters()))
        self._model = model

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def start_cache(self) -> "Cache":
        """An empty cache, of the kind that the model's attention needs."""
        return start_cache(self._model)

    def _forward(self, tokens: Tensor, cache: "Cache | None") -> Tensor:
        return self._model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None).logits

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
