"""A causal language model behind one protocol: its name (resolving), its hook points, and its forward passes.

model = resolve("builtin:stdlib-4m")                             # immutable: a name and a revision
hook_points(read_config(model))                                  # name -> width; from config.json alone
lm = load(model, backend="huggingface", dtype="float32", device="cpu")
lm.read(tokens, ["blocks.1.hook_resid_post"])                    # one forward pass, no further than needed
lm.logits_with(tokens, {"blocks.1.hook_resid_post": dictionary}) # with a dictionary spliced in

`builtin:features?...` is a model made of known sparse features: features.py says which, synthetic.py runs it.
"""

from typing import TYPE_CHECKING, Literal

from lmsae.errors import SourceError
from lmsae.lm import lens_models
from lmsae.lm.hook_points import family_of
from lmsae.lm.resolving import (
    ResolvedModel,
    features_of,
    read_config,
    require_usable,
    resolve,
    tokenizer_folder,
    weights_folder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from lmsae.lm.features import Features
    from lmsae.lm.protocol import LanguageModel

__all__ = ["Backend", "Dtype", "ResolvedModel", "load", "load_tokenizer", "read_config", "resolve"]

Backend = Literal["huggingface", "transformerlens"]
Dtype = Literal["float32", "bfloat16", "float16"]


def load(
    model: ResolvedModel,
    *,
    backend: Backend,
    dtype: Dtype,
    device: str,
    trust_remote_code: bool = False,
    up_to: "Sequence[str] | None" = None,
    device_map: "str | Mapping[str, int | str] | None" = None,
) -> "LanguageModel":
    """The model with its weights in `dtype` on `device`, frozen and in evaluation mode.

    `up_to` are the only hook points that will be read: layers behind the last of them are not loaded if the backend can
    do without. `device_map` lays the model on several devices instead of one (accelerate's, backend huggingface only).

    Raises SourceError if its family is not known, its files cannot be had, or the backend does not support it.
    """
    config = read_config(model)
    family_of(config)  # before a download of gigabytes
    require_usable(model)
    if reason := lens_models.obstacle(config, backend):
        raise SourceError(f"model {model.name}: model.backend {reason}")
    if (features := features_of(model)) is not None:
        return _load_features(features, backend, dtype, device)
    path = weights_folder(model)
    if backend == "transformerlens":
        from lmsae.lm import transformerlens

        if device_map is not None:
            raise SourceError("runtime.device_map is for model.backend huggingface: a bridge has one device")
        if lens_models.is_lens_model(config):
            from lmsae.lm import hooked_transformer

            return hooked_transformer.load(path, config, dtype, device)
        return transformerlens.load(path, dtype, device, trust_remote_code)
    from lmsae.lm import huggingface

    return huggingface.load(path, dtype, device, trust_remote_code, up_to, device_map)


def load_tokenizer(model: ResolvedModel) -> "PreTrainedTokenizerBase":
    """The model's own tokenizer. Raises SourceError if it has none."""
    from lmsae.lm.pretrained import read_tokenizer

    return read_tokenizer(tokenizer_folder(model))


def _load_features(features: "Features", backend: Backend, dtype: Dtype, device: str) -> "LanguageModel":
    import torch

    from lmsae.lm.synthetic import SyntheticModel

    if backend != "huggingface":
        raise SourceError(f"model {features.name()} has no backends: leave model.backend empty, not {backend!r}")
    return SyntheticModel(features, getattr(torch, dtype), torch.device(device))
