"""The one way to read a folder with a dictionary: config and weights are checked before memory is taken for them."""

import pickle
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmsae.errors import FolderError, describe_wanted

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FLOATS_IN_HEADERS = ("F64", "F32", "F16", "BF16")


Model = TypeVar("Model", bound=BaseModel)


class Fields(BaseModel):
    """The fields of a config that lmsae reads. There may be others. Values are not converted: `"4"` is no number."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


def read_config(file: Path, model: type[Model]) -> Model:
    """The JSON object in a file as such a model. Raises FolderError with all faults if it is none."""
    try:
        return model.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:  # a path with NUL is a ValueError, and so is a ValidationError
        if not isinstance(error, ValidationError):
            raise _unreadable(file, error) from None
        faults = "; ".join(_describe_fault(problem) for problem in error.errors(include_url=False))
        raise FolderError(f"{file}: {faults}.") from None


def _describe_fault(problem: ErrorDetails) -> str:
    if problem["type"] == "json_invalid":
        return f"it is not JSON ({problem['msg']}): it is damaged or cut off; fetch the folder again"
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"the field {field} is missing"
    if problem["type"] in ("model_type", "model_attributes_type", "dataclass_type"):
        return f"found {reprlib.repr(problem['input'])}{f' as {field}' if field else ''}; wanted: an object with fields"
    return f"{field} is {reprlib.repr(problem['input'])}; {describe_wanted(problem)}"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in a file: their shapes, known from its header, and the tensors, which are read when asked for."""

    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    no_floats: Mapping[str, str]
    """The type of each weight that is not of floats."""
    load: Callable[[str], Tensor]

    def require(self, wanted: Mapping[str, Sequence[str]], sizes: Mapping[str, int], kind: str, mend: str) -> None:
        """Raise FolderError unless the file has exactly these weights, of these shapes.

        `wanted` has the dimensions of each in words, and a word means the same number everywhere: that of `sizes`, or
        else that of the first weight that has it. `kind` names such a dictionary, and `mend` says what to do.
        """
        self.require_names(wanted, kind, mend)
        known = dict(sizes)
        for name, words in wanted.items():
            if len(words) == len(self.shapes[name]) and all(self.shapes[name]):
                known = dict(zip(words, self.shapes[name], strict=True)) | known
        for name, words in wanted.items():
            self.require_shape(name, tuple(known.get(word, 1) for word in words), f" ({_show(words)})" if words else "")

    def require_names(self, wanted: Iterable[str], kind: str, mend: str) -> None:
        """Raise FolderError unless the file has exactly these weights."""
        names = sorted(wanted)
        if sorted(self.shapes) != names:
            found = ", ".join(self.shapes) or "none"
            raise FolderError(f"{self.file}: {kind} has the weights {', '.join(names)}, but found {found}. {mend}")

    def require_shape(self, name: str, shape: Sequence[int], meaning: str = "") -> None:
        """Raise FolderError unless a weight has this shape."""
        found = self.shapes[name]
        if found != tuple(shape):
            raise FolderError(
                f"{self.file}: {name} is {_show(found)}; wanted: {_show(shape)}{meaning}, as the config and the other "
                "weights have it. The files belong to two dictionaries, or one is damaged."
            )

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some weights, as they are. Raises FolderError unless all are finite floats."""
        read: dict[str, Tensor] = {}
        for name in names:
            if name in self.no_floats:
                raise FolderError(f"{self.file}: {name} is of {self.no_floats[name]}; wanted: floats.")
            read[name] = self.load(name)
        return self.require_finite(read)

    def read_count(self, name: str) -> int:
        """A weight that is a single whole number above 0. Raises FolderError if it is not."""
        value = self.load(name)
        if value.dtype in (torch.bool, *FLOATS) or value.numel() != 1 or value.is_complex() or int(value) < 1:
            raise FolderError(f"{self.file}: {name} is {value!r}; wanted: a whole number above 0.")
        return int(value)

    def require_finite(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give back these weights of the file. Raises FolderError if one holds what is no finite number."""
        for name, weight in weights.items():
            if not weight.isfinite().all():
                count = int((~weight.isfinite()).sum())
                raise FolderError(
                    f"{self.file}: {name} holds NaN or infinity at {count:,} of {weight.numel():,} entries, so that no "
                    "code would be a number. Its training broke down, or the file is damaged."
                )
        return weights

    def read_float32(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some weights in float32. Raises FolderError unless all are floats, finite in float32."""
        return self.require_finite({name: weight.float() for name, weight in self.read(names).items()})


def open_safetensors(file: Path) -> Weights:
    """The weights in a safetensors file, of which only the header is read. Raises FolderError if it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: str(part.get_dtype()) for name, part in slices.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(file, error) from None

    def load(name: str) -> Tensor:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    no_floats = {name: kind for name, kind in types.items() if kind not in FLOATS_IN_HEADERS}
    return Weights(file, shapes, no_floats, load)


def open_tensors(file: Path) -> Weights:
    """The weights in a file of `torch.save`, opened for tensors alone: no code in it runs.

    Raises FolderError if it is damaged or holds anything else.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FolderError(
            f"{file} is damaged or holds more than tensors, and opening that would run code of whoever wrote it; lmsae "
            "does not. Fetch it again, or save its state_dict() again."
        ) from None
    except Exception as error:  # the reader of torch raises whatever the bytes lead it to
        raise _unreadable(file, error) from None
    if not isinstance(found, Mapping):
        raise FolderError(f"{file} holds a {type(found).__name__}; wanted: a state_dict(), tensors by name.")
    odd = [str(name) for name, value in found.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise FolderError(f"{file}: {', '.join(odd)}: wanted a plain tensor for each name, as state_dict() gives it.")
    return Weights(
        file,
        {name: tuple(value.shape) for name, value in found.items()},
        {name: str(value.dtype) for name, value in found.items() if value.dtype not in FLOATS},
        lambda name: found[name],
    )


def _is_plain(value: object) -> bool:
    """True for a tensor of values that are all in memory: not sparse, quantized or one value under many places."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.device.type == "cpu" and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _unreadable(file: Path, error: Exception) -> FolderError:
    if isinstance(error, FileNotFoundError):
        return FolderError(f"{file}: there is no such file. Name the folder that holds it.")
    said = str(error).strip().split("\n")[0] or type(error).__name__
    return FolderError(f"{str(file)!r} cannot be read ({said}): it is damaged or cut off; fetch the folder again.")


def _show(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
