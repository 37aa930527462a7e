"""A transformers model out of a folder, with every one of its weights or not at all, and a tokenizer."""

import logging
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from lmsae.errors import LmsaeError, SourceError
from lmsae.runtime.memory import says_no_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Causal masks and positions, which older versions of transformers saved among the weights.
_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|position_ids$")
_HEAD = re.compile(r"(lm_head|embed_out)\.(weight|bias)")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_MOST_NAMES, _LONGEST = 3, 300
Shape = tuple[int, ...]
DeviceMap = str | Mapping[str, int | str]
"""A way of accelerate to lay a model on devices (`auto`, `balanced`, `sequential`), or module -> device."""


@dataclass(frozen=True)
class Cut:
    """The part of a model that a capture needs: its first `layers` layers of `of`, and no unembedding.

    `key` is the name of the number of layers in config.json, and `list_name` that of the list of layers in the model.
    """

    key: str
    list_name: str
    layers: int
    of: int

    def leaves_out(self, name: str) -> bool:
        """True for the name of a weight, in a file, of a layer that is not needed, or of the unembedding."""
        number = re.search(rf"(?:^|\.){self.list_name}\.(\d+)\.", name)
        return _HEAD.fullmatch(name) is not None or (number is not None and self.layers <= int(number[1]) < self.of)


def load_pretrained(
    folder: Path,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    cut: Cut | None = None,
    device_map: DeviceMap | None = None,
) -> "PreTrainedModel":
    """Load the transformers model in a folder: safetensors only, evaluation mode, no gradients.

    With `cut`, layers behind the last one needed are not read, nor is the unembedding, and the model is the base model
    of its family. With `device_map` accelerate lays the parts of the model on several devices. What transformers has to
    say is passed on in one line each. Raises SourceError for damaged weights, and if weights are missing, unused or of
    another shape or kind than the model's: transformers would draw those at random, leave them out or cast them.
    """
    from safetensors import SafetensorError

    spread = dict(device_map) if isinstance(device_map, Mapping) else device_map
    with listen() as said:
        try:
            _require_floats(folder)
            loaded = _from_folder(
                folder,
                cut,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # else an error comes before the report
                device_map=spread,
            )
        except SafetensorError as error:
            raise SourceError(f"the weights in {folder} are damaged ({error}); get them again") from error
        except Exception as error:  # of any class: whatever config.json can hold, some code of transformers reads
            if isinstance(error, LmsaeError) or says_no_memory(error):
                raise
            mend = "mend its config.json, or get the model again"
            raise SourceError(f"transformers cannot load {folder}: {describe(error)}; {mend}") from error
    model, report = loaded
    mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"]}
    unused = {name for name in report["unexpected_keys"] if not _BUFFER.search(name)}
    unused = {name for name in unused if cut is None or not cut.leaves_out(name)}
    require_all(folder, set(report["missing_keys"]), unused, mismatched)
    for line in said:
        print(f"{folder}: transformers says: {line}", file=sys.stderr)
    _freeze(model, None if device_map is not None else device)
    return model


def _from_folder(folder: Path, cut: Cut | None, **options: Any) -> "tuple[PreTrainedModel, dict[str, set]]":
    """The model as transformers loads it, and the report of its weights."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    if cut is None:
        return cast(Any, AutoModelForCausalLM.from_pretrained(folder, **options))
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=options["trust_remote_code"])
    setattr(config.get_text_config(), cut.key, cut.layers)
    return cast(Any, AutoModel.from_pretrained(folder, config=config, **options))


def _freeze(model: torch.nn.Module, device: str | None) -> None:
    """Move a model to a device, if it is to be on one, in evaluation mode and without gradients."""
    (model if device is None else model.to(device)).eval().requires_grad_(False)


def _require_floats(folder: Path) -> None:
    """Raise SourceError if weights in a folder are whole numbers, or floats that mean nothing without a scale."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not _BUFFER.search(name)]  # noqa: SIM118  not iterable itself
            dtypes = {name: opened.get_slice(name).get_dtype() for name in names}
        if odd := [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in _FLOATS]:
            raise SourceError(
                f"weights in {file} are no floats of 16 bits or more: {_name(odd)}. lmsae runs models that are not "
                "quantized: name the model that this one was made of"
            )


def require_all(
    folder: Path,
    missing: set[str],
    unused: set[str],
    mismatched: Mapping[str, tuple[Shape, Shape]],
    advice: str | None = None,
) -> None:
    """Raise SourceError unless the weights in a folder are those of the model that its config.json describes: none
    missing, none unused, and none of another shape (name -> the one found, the one wanted)."""
    if not (missing or unused or mismatched):
        return
    shapes = [f"{name} ({list(found)} for {list(wanted)})" for name, (found, wanted) in sorted(mismatched.items())]
    parts = [
        f"missing are {_name(missing)}" if missing else "",
        f"unused would be {_name(unused)}" if unused else "",
        f"of another shape are {_name(shapes)}" if shapes else "",
    ]
    raise SourceError(
        f"the weights in {folder} are not those of the model that its config.json describes: "
        f"{'; '.join(part for part in parts if part)}. {advice or _advice(missing, unused, set(mismatched.values()))}"
    )


def _advice(missing: set[str], unused: set[str], shapes: set[tuple[Shape, Shape]]) -> str:
    prefixes = {name.removesuffix(other) for name in unused for other in missing if name.endswith(f".{other}")}
    prefix = next(iter(prefixes), None)
    if prefix and all(name.startswith(prefix) for name in unused):
        return (
            f"Names in the file begin with {prefix!r}, as those of a wrapped model do (torch.compile, DataParallel): "
            f"save the model inside, model.{prefix}save_pretrained(folder)"
        )
    if missing == {"lm_head.weight"} and not unused:
        return "If the embedding is the head too, set tie_word_embeddings to true in config.json; else get it again"
    if not (missing or unused) and len(shapes) == 1:
        ((found, wanted),) = shapes
        if found and found[1:] == wanted[1:]:
            return (
                f"Put {found[0]:,} in the place of {wanted[0]:,} in config.json (vocab_size?), or get the weights again"
            )
    if unused and not missing:
        return (
            "Mend config.json; or, if they are to be left out, save what is to be run: "
            "AutoModelForCausalLM.from_pretrained(old).save_pretrained(new), and name the new folder"
        )
    return "Mend config.json, or get the weights again"


def _name(names: Collection[str]) -> str:
    """The first few of the names, in order, and the number of the others."""
    shown = sorted(names)[:_MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def describe(error: Exception) -> str:
    """The class of a library's error, and what it says, on one line that is not long."""
    said = " ".join(str(error).split())
    return ": ".join([type(error).__name__, *([said] if said else [])])[:_LONGEST]


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Read the tokenizer in a folder. Raises SourceError if there is none."""
    from transformers import AutoTokenizer

    with listen():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise SourceError(f"no tokenizer can be loaded from {folder}: {error}") from error


class _Listener(logging.Handler):
    """Keeps what a library warns of, a line each, but for the report of weights, which `load_pretrained` reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if "LOAD REPORT" not in text:
            self.said.append(text)


@contextmanager
def listen() -> Iterator[list[str]]:
    """The warnings of transformers, instead of its progress bars and advice on stderr, for the length of a block."""
    from transformers.utils import logging as their

    logger, listener = logging.getLogger("transformers"), _Listener()
    verbosity, had_bars, handlers = their.get_verbosity(), their.is_progress_bar_enabled(), logger.handlers
    their.set_verbosity_warning()
    their.disable_progress_bar()
    logger.handlers = [listener]
    try:
        yield listener.said
    finally:
        logger.handlers = handlers
        their.set_verbosity(verbosity)
        if had_bars:
            their.enable_progress_bar()
