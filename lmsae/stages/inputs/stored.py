"""Stored activations and moments, read from the artifacts of earlier stages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import Artifact
from lmsae.errors import NotEnoughTokens, ShapeError
from lmsae.stages.activations import STORE
from lmsae.stages.inputs.usable import Usable
from lmsae.stages.sites import Reading, Sites, inputs_from

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lmsae.dictionary.config import DictionaryConfig
    from lmsae.store.reader import StoreReader
    from lmsae.training.batch import Batch


def open_stores(inputs: Mapping[str, Artifact]) -> "list[StoreReader]":
    """The stores among a job's inputs, by number."""
    from lmsae.store.reader import StoreReader

    return [StoreReader(one.path / STORE) for one in inputs_from("activations", inputs)]


def stores_for(dictionary: "DictionaryConfig", sites: Sites, inputs: Mapping[str, Artifact]) -> "list[StoreReader]":
    """The stores among a job's inputs, by number; raises ShapeError if a width is not the dictionary's own."""
    stores, widths = open_stores(inputs), dictionary.widths
    wanted = [*zip(sites.reads, widths.reads, strict=True), *zip(sites.writes, widths.writes, strict=True)]
    for number, width in wanted:
        if stores[number].width != width:
            raise ShapeError(
                f"the activations in {stores[number].path} have width {stores[number].width}, but the dictionary has "
                f"{width} there. Plan the sweep again (`lmsae plan`): there the width is the model's own."
            )
    return stores


def batch_of(
    parts: "Sequence[Tensor]", sites: Sites, usable: "Tensor | None" = None, ids: "Tensor | None" = None
) -> "Batch":
    """A batch from the activations of every store: those of the hook points read, and written, side by side."""
    from lmsae.training.batch import Batch

    x = _join(parts, sites.reads)
    return Batch(x, x if sites.writes == sites.reads else _join(parts, sites.writes), usable, ids)


def calibration_batch(
    dictionary: "DictionaryConfig", sites: Sites, inputs: Mapping[str, Artifact], reading: Reading
) -> "Batch":
    """The raw activations of all usable calibration tokens, float32, in whole contexts if the geometry reads those:
    never part of the training stream. Raises NotEnoughTokens if there is none."""
    (batch,) = calibration_parts(dictionary, sites, inputs, reading)[1]
    return batch


def calibration_parts(
    dictionary: "DictionaryConfig",
    sites: Sites,
    inputs: Mapping[str, Artifact],
    reading: Reading,
    part_tokens: int | None = None,
) -> "tuple[int, Iterator[Batch]]":
    """The number of usable calibration tokens, and `calibration_batch` in parts of whole contexts with about so many
    tokens; None is all of them at once."""
    from lmsae.text.tokens import open_tokens

    split, stores = open_tokens(inputs["tokens"].path), stores_for(dictionary, sites, inputs)
    there = split.calibration_contexts
    usable = _require_some(Usable(split, [store.path for store in stores], reading)[0:there])
    contexts = there if part_tokens is None else max(1, part_tokens // split.context_size)

    def read(start: int) -> "Batch":
        stop = min(start + contexts, there)
        parts, mask = [store.read(start, stop) for store in stores], usable[start:stop]
        if dictionary.geometry.grain == "context":
            return batch_of(parts, sites, mask)
        return batch_of([part[mask] for part in parts], sites)

    return int(usable.sum()), map(read, range(0, there, contexts))


def calibration_activations(activations: Artifact, tokens: Artifact, reading: Reading) -> "Tensor":
    """The activations of usable calibration tokens at one hook point, (tokens, width) float32.

    Raises NotEnoughTokens if there is none.
    """
    from lmsae.store.reader import StoreReader
    from lmsae.text.tokens import open_tokens

    split, store = open_tokens(tokens.path), StoreReader(activations.path / STORE)
    usable = _require_some(Usable(split, [store.path], reading)[0 : split.calibration_contexts])
    return store.read(0, split.calibration_contexts)[usable]


def max_norm_of(activations: Artifact, tokens: Artifact, reading: Reading) -> float:
    """The largest norm that a usable token may have at one hook point; infinite without `max_norm_factor`."""
    from lmsae.text.tokens import open_tokens

    return Usable(open_tokens(tokens.path), [activations.path / STORE], reading).max_norms[0]


def moments_of(norm: Artifact) -> "dict[str, Tensor]":
    """The moments of a hook point: mean_norm (), mean (width,), variance (width,), max_norm (), float64."""
    from safetensors.torch import load_file

    return load_file(norm.path / "norm.safetensors")


def _require_some(usable: "np.ndarray") -> "Tensor":
    """The same as a tensor. Raises NotEnoughTokens if no token is usable."""
    import torch

    if not usable.any():
        raise NotEnoughTokens(
            f"of {usable.size:,} calibration tokens none may be used: raise tokenize.calibration_tokens or "
            "activations.max_norm_factor, lower activations.skip_*_positions, or see what tokenize masks"
        )
    return torch.from_numpy(usable)


def _join(parts: "Sequence[Tensor]", numbers: Sequence[int]) -> "Tensor":
    import torch

    return parts[numbers[0]] if len(numbers) == 1 else torch.cat([parts[number] for number in numbers], dim=-1)
