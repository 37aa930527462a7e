"""A HuggingFace transformers model as a LanguageModel: hooks at the modules of families.py, and an early stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmsae.config import JsonObject, parse_json
from lmsae.lm import hook_points as points
from lmsae.lm.pretrained import Cut, DeviceMap, load_pretrained
from lmsae.lm.probing import require_numbers
from lmsae.lm.tapping import INPUT, Tap, find_module, require_tapped
from lmsae.lm.visits import Visit, VisitedModel, edit_visits
from lmsae.lm.weights import CONFIG

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


def load(
    folder: Path,
    dtype: str,
    device: str,
    trust_remote_code: bool = False,
    up_to: Sequence[str] | None = None,
    device_map: DeviceMap | None = None,
) -> "HuggingFaceModel":
    """The model in a folder, with the attention that transformers chooses.

    That is sdpa, except where sdpa cannot compute what the family needs (Gemma 2's softcap). With `up_to`, no layer
    behind the last of these hook points is loaded, and no unembedding: then the model reads, and has no logits.

    Raises SourceError for a model that cannot be loaded whole, or computes no numbers.
    """
    cut = None if up_to is None else _cut(_read_config(folder), up_to)
    loaded = load_pretrained(folder, dtype, device, trust_remote_code, cut=cut, device_map=device_map)
    model = HuggingFaceModel(loaded) if cut is None else PartialModel(loaded)
    require_numbers(model, folder, dtype, "its logits" if cut is None else "its activations")
    return model


def _read_config(folder: Path) -> JsonObject:
    config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
    assert isinstance(config, dict), "read_config has been asked"
    return points.text_config(config)


def _cut(config: JsonObject, hook_points: Sequence[str]) -> Cut | None:
    """The part of a model that is needed to read these hook points; None if that is all of it, for all that is known:
    of a family without names, and of a module that is in none of its layers."""
    family, total = points.family_of(config), points.layers_and_width(config)[0]
    modules = [name for name in hook_points if points.is_module(name)]
    if not family.layers or any(not name.startswith(f"{family.layers}.") for name in modules):
        return None
    layers = max(points.layer_of(name) for name in hook_points) + 1
    return Cut(family.keys["n_layers"], family.layers.rpartition(".")[2], min(layers, total), total)


def start_cache(model: "PreTrainedModel") -> "Cache | None":
    """An empty cache for a model's keys and values, or None if it keeps none (Mamba). Passes fill the one that they are
    given."""
    from transformers import DynamicCache

    if "past_key_values" not in signature(model.forward).parameters:
        return None
    return DynamicCache(config=model.config)


class HuggingFaceModel(VisitedModel):
    """A causal LM of transformers behind the LanguageModel protocol."""

    def __init__(self, model: "PreTrainedModel", prefix: str = "") -> None:
        weights = {f"{prefix}{name}": weight for name, weight in model.named_parameters()}
        super().__init__(model.config.to_dict(), model.device, weights)
        self._model, self._prefix = model, prefix
        self._stand_in: _StandIn | None = None
        self._tried_to_skip = False

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def start_cache(self) -> "Cache | None":
        """An empty cache, of the kind that the model's attention needs; None if it has no attention."""
        return start_cache(self._model)

    def _forward(self, tokens: Tensor, cache: "Cache | None") -> Tensor:
        kept = {} if cache is None else {"past_key_values": cache}
        return self._model(input_ids=tokens, use_cache=cache is not None, **kept).logits

    def _can_skip(self) -> bool:
        """True if the logits are the same to the bit without the layers before the last one.

        Tried once, on a few tokens, since in some architectures a later layer takes more from earlier ones than the
        residual stream.
        """
        if not self._tried_to_skip:
            self._tried_to_skip = True
            last = f"blocks.{points.layers_and_width(self.config)[0] - 1}.hook_resid_pre"
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
        stack = find_module(self._model, points.family_of(self.config).layers.removeprefix(self._prefix))
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
        taps = []
        with ExitStack() as hooks:
            for name, visit in visits.items():
                points.require(name, self.config)
                taps.append(Tap(name, visit, self._changes_later(name), lambda: self._shape))
                where = points.locate(name, self.config)
                module = find_module(self._model, where.module.removeprefix(self._prefix))
                hooks.enter_context(taps[-1].attach(module, where.side))
            yield
        require_tapped(taps)

    def _changes_later(self, name: str) -> bool:
        """True if the model may overwrite the tensor of a hook point as it goes on."""
        return points.is_module(name) or points.split(name)[1] in points.family_of(self.config).sums_in_place


_Output = Tensor | tuple[Tensor, ...]
_StandIn = Callable[..., _Output]


def _pass_on(*given: Any, **named: Any) -> Tensor:
    return given[0] if given else named[INPUT]


def _pass_on_in_tuple(*given: Any, **named: Any) -> tuple[Tensor, ...]:
    return (_pass_on(*given, **named),)


_STAND_INS: tuple[_StandIn, ...] = (_pass_on, _pass_on_in_tuple)
"""Layers that leave the residual stream as it is, in the two ways in which layers of transformers return it."""
TRIED = 8
"""Tokens on which leaving layers out is tried."""


class PartialModel(HuggingFaceModel):
    """The first layers of a causal LM, by the base model of its family: it reads hook points as the whole model does,
    and what leaves its last layer stands in the place of logits."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__(model, f"{model.base_model_prefix}.")

    def start_cache(self) -> None:
        """None: it is there to read stored text."""

    def _forward(self, tokens: Tensor, cache: "Cache | None") -> Tensor:
        assert cache is None, "start_cache gave none"
        return self._model(input_ids=tokens, use_cache=False).last_hidden_state
