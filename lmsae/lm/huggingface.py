"""A HuggingFace transformers model as a LanguageModel: forward hooks where families.py says, and an early stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lmsae.errors import SourceError
from lmsae.lm import hook_points as points
from lmsae.lm.visits import Visit, VisitedModel


def load(folder: Path, dtype: str, device: str, trust_remote_code: bool = False) -> "HuggingFaceModel":
    """The model in a folder, with the attention that transformers chooses.

    That is sdpa, except where sdpa cannot compute what the family needs (Gemma 2's softcap).
    """
    return HuggingFaceModel(pretrained(folder, dtype, device, trust_remote_code=trust_remote_code))


def pretrained(folder: Path, dtype: str, device: str, **options: Any) -> Any:
    """The transformers model in a folder: safetensors only, evaluation mode, no gradients, nothing on stderr.

    Raises SourceError for weights that are damaged.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    with _silence():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True, **options
            )
        except SafetensorError as error:
            raise SourceError(f"the weights in {folder} are damaged ({error}); get them again") from error
    return model.to(device).eval().requires_grad_(False)


def tokenizer_in(folder: Path) -> Any:
    """The tokenizer in a folder. Raises SourceError if there is none."""
    from transformers import AutoTokenizer

    with _silence():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise SourceError(f"no tokenizer can be loaded from {folder}: {error}") from error


class HuggingFaceModel(VisitedModel):
    """A causal LM of transformers behind the LanguageModel protocol."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.config.to_dict(), model.device, dict(model.named_parameters()))
        self._model = model

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def _forward(self, tokens: Tensor) -> Tensor:
        return self._model(input_ids=tokens, use_cache=False).logits

    @contextmanager
    def _visited(self, visits: Mapping[str, Visit]) -> Iterator[None]:
        family = points.family_of(self.config)
        with ExitStack() as hooks:
            for name, visit in visits.items():
                points.require(name, self.config)
                layer, kind = points.split(name)
                site = family.sites[kind]
                module = self._model.get_submodule(f"{family.layers}.{layer}.{site.module}".rstrip("."))
                hooks.enter_context(_AT[site.side](module, visit))
            yield


def _at_input(module: torch.nn.Module, visit: Visit) -> RemovableHandle:
    def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replaced = visit(inputs[0])
        return None if replaced is None else (replaced, *inputs[1:])

    return module.register_forward_pre_hook(hook)


def _at_output(module: torch.nn.Module, visit: Visit) -> RemovableHandle:
    def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        # Attention modules return (output, weights), most others a bare tensor.
        replaced = visit(output[0] if isinstance(output, tuple) else output)
        if replaced is None:
            return None
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    return module.register_forward_hook(hook)


_AT: dict[str, Callable[[torch.nn.Module, Visit], RemovableHandle]] = {"in": _at_input, "out": _at_output}


@contextmanager
def _silence() -> Iterator[None]:
    """Transformers without its progress bars and advice, for the length of a block."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
