"""A HuggingFace transformers model as a LanguageModel: hooks at the modules of families.py, and an early stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lmsae.errors import SourceError
from lmsae.lm import hook_points as points
from lmsae.lm.visits import Visit, VisitedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(folder: Path, dtype: str, device: str, trust_remote_code: bool = False) -> "HuggingFaceModel":
    """The model in a folder, with the attention that transformers chooses.

    That is sdpa, except where sdpa cannot compute what the family needs (Gemma 2's softcap).
    """
    return HuggingFaceModel(load_pretrained(folder, dtype, device, trust_remote_code))


def load_pretrained(
    folder: Path, dtype: str, device: str, trust_remote_code: bool, attention: str | None = None
) -> "PreTrainedModel":
    """Load the transformers model in a folder: safetensors only, evaluation mode, no gradients, nothing on stderr.

    `attention` is the implementation of attention, None the one that transformers chooses. Raises SourceError for
    damaged weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    options = {} if attention is None else {"attn_implementation": attention}
    with _silence():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **options,
            )
        except SafetensorError as error:
            raise SourceError(f"the weights in {folder} are damaged ({error}); get them again") from error
    _freeze(model, device)
    return model


def _freeze(model: torch.nn.Module, device: str) -> None:
    """Move a model to a device, in evaluation mode and without gradients."""
    model.to(device).eval().requires_grad_(False)


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Read the tokenizer in a folder. Raises SourceError if there is none."""
    from transformers import AutoTokenizer

    with _silence():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise SourceError(f"no tokenizer can be loaded from {folder}: {error}") from error


class HuggingFaceModel(VisitedModel):
    """A causal LM of transformers behind the LanguageModel protocol."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__(model.config.to_dict(), model.device, dict(model.named_parameters()))
        self._model = model

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def _forward(self, tokens: Tensor) -> Tensor:
        return self._model(input_ids=tokens, use_cache=False).logits

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
