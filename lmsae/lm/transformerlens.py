"""A TransformerBridge of TransformerLens as a LanguageModel, with the raw weights of the HuggingFace model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from lmsae.config import JsonObject
from lmsae.errors import HookPointError, SourceError, suggest
from lmsae.lm import hook_points as points
from lmsae.lm.huggingface import HuggingFaceModel, start_cache
from lmsae.lm.pretrained import describe, load_pretrained
from lmsae.lm.probing import first_difference, read_all, require_numbers
from lmsae.lm.visits import Visit, VisitedModel
from lmsae.runtime.memory import says_no_memory

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

_INSTEAD = "set model.backend to huggingface, which can"


def load(folder: Path, dtype: str, device: str, trust_remote_code: bool = False) -> "TransformerLensModel":
    """The model in a folder, in a bridge without its compatibility mode.

    That mode centers the residual stream, so that its activations would differ from HuggingFace's.

    Raises SourceError for a model that cannot be loaded whole, that the installed TransformerLens does not support, or
    that it computes otherwise than transformers.
    """
    model = load_pretrained(folder, dtype, device, trust_remote_code)
    if model.config.get_text_config() is not model.config:
        # Its bridge would also install torchvision with pip, and with it another torch, into the running environment.
        raise SourceError(f"{folder} reads more than text, and lmsae bridges no such model; {_INSTEAD}")
    weights = dict(model.named_parameters())  # the bridge gives them other names
    reference = HuggingFaceModel(model)
    require_numbers(reference, folder, dtype)
    expected = read_all(reference, list(reference.hook_points()))
    # The bridge computes attention eagerly. Some families compute something else then, so that what is expected comes
    # from the attention that the other backend has, too.
    model.set_attn_implementation("eager")
    try:
        bridged = TransformerLensModel(_bridge(folder, model, device), model.config.to_dict(), weights)
        difference = first_difference(bridged, expected)
    except Exception as error:  # of any class: the bridge asserts, and looks for what other configs have
        if says_no_memory(error):
            raise
        raise SourceError(f"TransformerLens cannot run {folder} ({describe(error)}); {_INSTEAD}") from error
    if difference is not None:
        where, share = difference
        raise SourceError(
            f"TransformerLens computes {folder} otherwise than transformers does: {where} differ by {share:.2g} of "
            f"their norm; {_INSTEAD}"
        )
    return bridged


def _bridge(folder: Path, model: "PreTrainedModel", device: str) -> "TransformerBridge":
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=model, tokenizer=_make_tokenizer(), device=device, dtype=model.dtype
    )
    # The bridge adds parameters of its own: separate queries, keys and values.
    bridge.original_model.requires_grad_(False)
    return bridge


class TransformerLensModel(VisitedModel):
    """A causal LM in a TransformerBridge behind the LanguageModel protocol."""

    def __init__(self, bridge: "TransformerBridge", config: JsonObject, weights: Mapping[str, Tensor]) -> None:
        super().__init__(config, next(bridge.original_model.parameters()).device, weights)
        self._bridge = bridge
        self._hooked = bridge.hook_dict

    def hook_points(self) -> dict[str, int]:
        """Every hook point that the bridge offers, in the order of a forward pass, with its width."""
        known = points.hook_points(self.config)
        return {name: width for name, width in known.items() if _bridge_name(name) in self._hooked}

    def start_cache(self) -> "Cache | None":
        """An empty cache, of the kind that the model's attention needs; None if it has no attention."""
        return start_cache(cast("PreTrainedModel", self._bridge.original_model))

    def _forward(self, tokens: Tensor, cache: "Cache | None") -> Tensor:
        kept = {} if cache is None else {"past_key_values": cache}
        return self._bridge(tokens, return_type="logits", use_cache=cache is not None, **kept)

    def _require(self, name: str) -> None:
        points.require(name, self.config)
        if points.is_module(name):
            raise HookPointError(f"TransformerLens does not know the modules of transformers ({name}); {_INSTEAD}")
        if _bridge_name(name) not in self._hooked:
            raise HookPointError(
                f"TransformerLens's bridge for {self.config['model_type']} has no {name!r}"
                f"{suggest(name, self.hook_points())}; or set the backend to huggingface, which has it"
            )

    @contextmanager
    def _visiting(self, visits: Mapping[str, Visit]) -> Iterator[None]:
        for name in visits:
            self._require(name)
        with self._bridge.hooks(fwd_hooks=[(_bridge_name(name), _hook(visit)) for name, visit in visits.items()]):
            yield


def _bridge_name(name: str) -> str:
    """The bridge's name of a hook point. Its `hook_normalized` comes before a norm's weight and bias, not after."""
    return name.replace(".hook_normalized", ".hook_out")


def _hook(visit: Visit) -> Callable[[Tensor, object], Tensor | None]:
    """A TransformerLens hook that makes the visit. Heads, which the bridge keeps apart, stand side by side in it."""

    def hook(activations: Tensor, hook: object) -> Tensor | None:
        replaced = visit(activations.flatten(2))
        return None if replaced is None else replaced.view(activations.shape)

    return hook


def _make_tokenizer() -> "PreTrainedTokenizerBase":
    """A tokenizer of one word: the bridge insists on a tokenizer, though lmsae gives it tokens only.

    The model's own tokenizer would not do. If it has a BOS token, the bridge loads it again from its first origin.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
