"""A model's weights on disk, without torch: the files that hold them, and what keeps them from being read."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from lmsae.errors import SourceError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

# The attention that config.json may name, and the package that computes it.
_ATTENTION = {
    "eager": "torch",
    "sdpa": "torch",
    "flex_attention": "torch",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def obstacle(config: Mapping[str, object]) -> str | None:
    """The reason in config.json why the model cannot be run as it is, with the way out, or None."""
    return _quantization_obstacle(config) or _attention_obstacle(config) or _file_obstacle(config)


def _quantization_obstacle(config: Mapping[str, object]) -> str | None:
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    return (
        f"its weights are quantized (config.json: quantization_config, {method or 'of no named method'}), and lmsae "
        "runs weights that are floats. Name the model that it was quantized from; or save it as floats with "
        "transformers: model.dequantize().save_pretrained(folder)"
    )


def _attention_obstacle(config: Mapping[str, object]) -> str | None:
    for key in ("_attn_implementation", "attn_implementation"):
        named = config.get(key)
        package = _ATTENTION.get(str(named))
        if named is not None and (package is None or find_spec(package) is None):
            reason = f"the package {package} is not installed" if package else f"lmsae knows {', '.join(_ATTENTION)}"
            return (
                f"config.json has {key} {named!r}, and {reason}. Delete that line of a local copy of the model, so "
                "that transformers chooses an attention that is there"
            )
    return None


def _file_obstacle(config: Mapping[str, object]) -> str | None:
    file = config.get("transformers_weights")
    if file is None or _is_plain(file):
        return None
    return (
        f"config.json names {file!r} as its weights (transformers_weights), and no file outside of the model's folder "
        "is part of the model. Move it into the folder"
    )


def require_no_adapter(name: str, folder: Path) -> None:
    """Raise SourceError if an adapter lies beside the weights: transformers adds it where peft is installed, and passes
    over it elsewhere."""
    if (folder / ADAPTER).is_file():
        raise SourceError(
            f"model {name}: {folder} has an adapter ({ADAPTER}), and lmsae reads whole models. Merge it with peft: "
            f"model.merge_and_unload().save_pretrained(folder), and name that folder; or, if the weights are meant "
            f"without it, take {ADAPTER} out of a local copy"
        )


def missing_files(folder: Path) -> list[str]:
    """The names of the files that a model in a folder lacks to be read from safetensors: none if it is whole.

    Raises SourceError for an index that cannot be read, or that names a file elsewhere.
    """
    wanted = [CONFIG, *(_shards(folder / INDEX) if (folder / INDEX).is_file() else [WEIGHTS])]
    return [name for name in wanted if not (folder / name).is_file()]


def _shards(index: Path) -> list[str]:
    """The names of the files that an index divides the weights into, sorted."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SourceError(
            f'{index} is no index of weights ({reason}); wanted {{"weight_map": {{weight: file}}}}. Get it again'
        ) from None
    if elsewhere := [shard for shard in shards if not _is_plain(shard)]:
        raise SourceError(
            f"{index} names the file {elsewhere[0]!r}, and no file outside of the model's folder is part of the model. "
            "Save the model again: model.save_pretrained(folder)"
        )
    return shards


def _is_plain(file: object) -> bool:
    """True for the name of a file that lies in the folder itself."""
    return isinstance(file, str) and file == Path(file).name
