"""TransformerLens's own models as LanguageModels: its HookedTransformer, or from version 4 on its native bridge."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.errors import SourceError
from lmsae.lm import hook_points as points
from lmsae.lm.lens_models import pickle_in
from lmsae.lm.pretrained import describe, require_all
from lmsae.lm.probing import require_numbers
from lmsae.lm.transformerlens import TransformerLensModel
from lmsae.lm.unembedding import UNEMBEDDING
from lmsae.lm.visits import Visit, VisitedModel
from lmsae.lm.weights import INDEX, WEIGHTS, missing_files
from lmsae.runtime.memory import says_no_memory

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_BUFFERS = (".mask", ".IGNORE")
"""Ends of the names of what HookedTransformer saves beside its weights."""
_GAIN = "ln_final.weight"
_HEAD_BIAS = "unembed.b_U"
"""Older checkpoints have none, and 0 stands for it."""
_ADVICE = (
    "Wanted is the state_dict() of a HookedTransformer of this config. Older layouts are mended by TransformerLens 3: "
    "HookedTransformer.from_pretrained_no_processing(name)"
)
_SIZES = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")
_COPIED = (*_SIZES, "attn_only", "act_fn", "eps", "final_rms", "normalization_type", "positional_embedding_type")


def load(folder: Path, config: JsonObject, dtype: str, device: str) -> VisitedModel:
    """The model in a folder, frozen and in evaluation mode, its weights as they are: nothing is folded or centered.

    Raises SourceError if the weights are damaged or not those of the config, or if the installed TransformerLens cannot
    run the model.
    """
    weights = _read_weights(folder)
    try:
        model = _build(config, weights, folder, getattr(torch, dtype), device)
    except SourceError:
        raise
    except Exception as error:  # of any class: TransformerLens asserts, and looks for what other configs have
        if says_no_memory(error):
            raise
        raise SourceError(f"TransformerLens cannot load {folder}: {describe(error)}") from error
    require_numbers(model, folder, dtype)
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights by HookedTransformer's names, from safetensors or a pickle that may hold tensors and nothing else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    pickle = pickle_in(folder) if missing_files(folder) else None
    try:
        if pickle is not None:
            found = torch.load(pickle, map_location="cpu", weights_only=True)
        else:
            files = sorted(folder.glob("*.safetensors")) if (folder / INDEX).is_file() else [folder / WEIGHTS]
            found = {name: weight for file in files for name, weight in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise SourceError(f"the weights in {folder} are damaged ({error}); get them again") from error
    except Exception as error:  # of any class: a pickle that is cut off, or that holds more than tensors
        raise SourceError(
            f"{pickle} cannot be read as tensors alone ({describe(error)}): it is damaged, or holds what could run as "
            "code. Save model.state_dict() of a HookedTransformer, or get it again"
        ) from error
    if not (isinstance(found, Mapping) and all(isinstance(one, Tensor) for one in found.values())):
        raise SourceError(f"{pickle} holds no tensors by name; wanted: model.state_dict() of a HookedTransformer")
    return {str(name): weight for name, weight in found.items() if not str(name).endswith(_BUFFERS)}


def _build(
    config: JsonObject, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype, device: str
) -> VisitedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # HookedTransformer is one that goes with version 4
        if find_spec("transformer_lens.HookedTransformer") is not None:
            return _build_hooked(config, weights, folder, dtype, device)
        return _build_native(config, weights, folder, dtype, device)


def _build_hooked(
    config: JsonObject, weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype, device: str
) -> "HookedTransformerModel":
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    copied: Any = {name: config[name] for name in _COPIED}
    described = HookedTransformerConfig(
        **copied, d_vocab=config["vocab_size"], dtype=dtype, device=device, init_weights=False
    )
    model = HookedTransformer(described)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_BUFFERS)}
    given = {_HEAD_BIAS: torch.zeros_like(wanted[_HEAD_BIAS]), **weights}
    _require_fit(given, wanted, folder)
    model.load_state_dict(given, strict=False)
    model.eval().requires_grad_(False)
    return HookedTransformerModel(model, config)


def _build_native(
    config: JsonObject, weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype, device: str
) -> "NativeModel":
    if config["positional_embedding_type"] == "shortformer":
        raise SourceError(
            f"{folder} adds positions to queries and keys alone (shortformer), and this version of TransformerLens has "
            "no such model; install one that has: pip install 'transformer-lens<4'"
        )
    from transformer_lens.config import TransformerBridgeConfig

    boot = import_module("transformer_lens.model_bridge.sources.native").boot
    convert = import_module("transformer_lens.utilities.tl_checkpoint_conversion").convert_tl_checkpoint
    copied: Any = {name: config[name] for name in _COPIED}
    described = TransformerBridgeConfig(
        **copied, d_vocab=config["vocab_size"], architecture="TransformerLensNative", init_weights=False
    )
    bridge = boot(described, device=device, dtype=dtype)
    wanted: dict[str, Tensor] = {**bridge.state_dict()}
    given = {name: torch.zeros_like(wanted[name]) for name in wanted if name == "unembed.bias"}
    given |= _plain_norms(config, wanted)
    given |= convert(dict(weights), described)
    _require_fit(given, wanted, folder)
    bridge.load_state_dict(given, strict=True)
    bridge.original_model.eval().requires_grad_(False)
    return NativeModel(bridge, config, _weights_to_logits(bridge.state_dict()))


def _plain_norms(config: JsonObject, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights 1 and biases 0 of the norms within MLPs, where the norms of the model have none (LNPre)."""
    names = [name for name in wanted if ".mlp.ln." in name] if config["normalization_type"] == "LNPre" else []
    return {name: torch.full_like(wanted[name], float(name.endswith("weight"))) for name in names}


def _require_fit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    """Raise SourceError unless the weights are all that are wanted, and no others, of the same shapes."""
    shapes = {name: (tuple(weights[name].shape), tuple(wanted[name].shape)) for name in weights.keys() & wanted.keys()}
    mismatched = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    require_all(folder, {*wanted} - {*weights}, {*weights} - {*wanted}, mismatched, _ADVICE)


class HookedTransformerModel(VisitedModel):
    """A HookedTransformer behind the LanguageModel protocol."""

    def __init__(self, model: "HookedTransformer", config: JsonObject) -> None:
        self._model = model
        super().__init__(config, model.W_E.device, _names_in_transformers(model))

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def start_cache(self) -> None:
        """None: tokens that are read a few at a time are read again from the first."""

    def _forward(self, tokens: Tensor, cache: object) -> Tensor:
        assert cache is None, "start_cache gave none"
        return self._model(tokens, return_type="logits")

    @contextmanager
    def _visiting(self, visits: Mapping[str, Visit]) -> Iterator[None]:
        handles = []
        try:
            for name, visit in visits.items():
                points.require(name, self.config)
                # The hook inside of a norm comes before its weight and bias.
                module = self._model.get_submodule(name.removesuffix(".hook_normalized"))
                made = _thrice(visit) if name.endswith(".ln1.hook_normalized") else visit
                handles.append(module.register_forward_hook(_after(made)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class NativeModel(TransformerLensModel):
    """A HookedTransformer as TransformerLens 4 has it: a bridge of a model of its own."""

    def start_cache(self) -> None:
        """None: tokens that are read a few at a time are read again from the first."""

    def _forward(self, tokens: Tensor, cache: object) -> Tensor:
        assert cache is None, "start_cache gave none"
        return self._bridge(tokens, return_type="logits")


def _after(visit: Visit) -> Callable[[torch.nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        replaced = visit(output.flatten(2))  # heads stand side by side
        return None if replaced is None else replaced.view(output.shape)

    return hook


def _thrice(visit: Visit) -> Visit:
    """A visit to what is computed three times, for queries, keys and values: it is made once, and holds for all."""
    made: list[Tensor | None] = []

    def visited(activations: Tensor) -> Tensor | None:
        replaced = made[0] if made else visit(activations)
        made.append(replaced)
        if len(made) == 3:
            made.clear()
        return replaced

    return visited


def _names_in_transformers(model: "HookedTransformer") -> dict[str, Tensor]:
    """The weights between the residual stream and the logits, as modules of transformers would have them: (out, in)."""
    found = {UNEMBEDDING: model.unembed.W_U.T}
    for number, block in enumerate(model.blocks):
        found[f"blocks.{number}.attn.o.weight"] = block.attn.W_O.flatten(0, 1).T
        if not model.cfg.attn_only:
            found[f"blocks.{number}.mlp.out.weight"] = block.mlp.W_out.T
    gain = getattr(getattr(model, "ln_final", None), "w", None)
    return {**found, _GAIN: torch.ones_like(model.W_E[0]) if gain is None else gain}


def _weights_to_logits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same of a native bridge, whose names are those of transformers but for the unembedding."""
    head = weights["unembed.weight"]
    return {_GAIN: torch.ones_like(head[0]), **weights, UNEMBEDDING: head}
