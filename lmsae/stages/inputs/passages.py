"""Passages: contexts of a split in their order, with the activations that dictionaries read there.

Those of the train split are read from stores, or captured again where they are live. Those of the held-out split come
from the models. Either way batches are the same whichever dictionaries are there to read them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lmsae.artifacts.artifact import Artifact
from lmsae.errors import NotEnoughTokens
from lmsae.stages.inputs.live import Live, live_captures
from lmsae.stages.inputs.usable import Usable
from lmsae.stages.models import LMConfig
from lmsae.stages.sites import Place, Reading, inputs_from

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.lm.protocol import LanguageModel
    from lmsae.text.tokens import TokenArray, TokenSet

READ_TOKENS = 8192
"""Tokens of a batch of stored activations."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A few contexts: the number of the first, counted from the first that is read; activations (contexts,
    context_size, width) float32 by place; and the tokens that count (contexts, context_size) bool."""

    first: int
    activations: "Mapping[Place, Tensor]"
    counted: "Tensor"


class Passages(Protocol):
    """The contexts that are read."""

    first_context: int
    """The number of the first in its split."""
    ids: np.ndarray
    """(contexts, context_size)."""

    def read(self, wanted: np.ndarray | None = None) -> Iterator[Passage]:
        """All contexts in their order or, if any are wanted, those of batches that hold one of these numbers."""
        ...


class StoredPassages:
    """Contexts of the train split behind the calibration split."""

    def __init__(
        self,
        tokens: "TokenSet",
        inputs: Mapping[str, Artifact],
        places: Sequence[Place],
        reading: Reading,
        most_tokens: int,
        models: "Mapping[LMConfig, LanguageModel]",
    ) -> None:
        """`places` are those of the stores, by number. `models` are those that live activations come from."""
        from lmsae.stages.inputs.stored import open_stores
        from lmsae.store.stores import Stores

        stores, live = open_stores(inputs), live_captures(inputs)
        self.first_context = tokens.calibration_contexts
        contexts = _count(len(tokens.train) - self.first_context, tokens.context_size, most_tokens)
        here = slice(self.first_context, self.first_context + contexts)
        self.ids = tokens.train[here]
        self._counted = Usable(tokens, [store.path for store in stores], reading)[here]
        self._places = tuple(places)
        self._source = Live(live, stores, _Ids(tokens.train), models) if live else Stores(stores)

    def read(self, wanted: np.ndarray | None = None) -> Iterator[Passage]:
        import torch

        size, chunk = self._source.context_size, self._source.chunk_contexts
        step = max(1, READ_TOKENS // (chunk * size)) * chunk
        begin, end = self.first_context, self.first_context + len(self.ids)
        edges = [begin, *range((begin // chunk + 1) * chunk, end, step), end]
        for start, stop in itertools.pairwise(edges):
            first, last = start - begin, stop - begin
            if start == stop or (wanted is not None and not ((wanted >= first) & (wanted < last)).any()):
                continue
            chunks = np.arange(start // chunk, -(-stop // chunk))
            buffers = self._source.buffers(len(chunks) * chunk * size)
            self._source.announce(chunks)
            self._source.load(chunks, buffers, lambda: True)
            skipped = int(chunks[0]) * chunk
            taken = torch.arange((start - skipped) * size, (stop - skipped) * size)
            parts = [part.view(stop - start, size, -1) for part in self._source.decode(buffers, taken)]
            counted = torch.from_numpy(self._counted[first:last])
            yield Passage(first, dict(zip(self._places, parts, strict=True)), counted)


class HeldOutPassages:
    """The first contexts of the held-out split, run through the models."""

    first_context = 0

    def __init__(
        self,
        tokens: "TokenSet",
        places: Sequence[Place],
        limits: Mapping[Place, float],
        reading: Reading,
        most_tokens: int,
        models: "Sequence[LanguageModel]",
        batch_contexts: int,
    ) -> None:
        """`limits` are the largest norms that tokens which count may have, by place."""
        contexts = _count(len(tokens.held_out), tokens.context_size, most_tokens)
        self.ids = tokens.held_out[0:contexts]
        skipped = reading.skip_first_positions, reading.skip_last_positions
        self._counted = tokens.usable("held_out", slice(0, contexts), *skipped)
        self._places, self._limits, self._models, self._batch = tuple(places), limits, models, batch_contexts

    def read(self, wanted: np.ndarray | None = None) -> Iterator[Passage]:
        import torch

        for first in range(0, len(self.ids), self._batch):
            here = slice(first, first + self._batch)
            if wanted is not None and not ((wanted >= first) & (wanted < here.stop)).any():
                continue
            ids, found = torch.from_numpy(self.ids[here].astype("int64")), {}
            for number, model in enumerate(self._models):
                mine = [place for place in self._places if place.model == number]
                read = model.read(ids.to(model.device), [place.hook_point for place in mine]) if mine else {}
                found |= {place: read[place.hook_point] for place in mine}
            counted = torch.from_numpy(self._counted[here]).to(self._models[0].device)
            for place, limit in self._limits.items():
                norms = torch.linalg.vector_norm(found[place], dim=-1, dtype=torch.float32)
                counted &= norms <= limit
            yield Passage(first, {place: one.float() for place, one in found.items()}, counted)


class _Ids:
    """An array on disk that is read by the numbers of contexts."""

    def __init__(self, array: "TokenArray") -> None:
        self._array, self.shape = array, array.shape

    def __getitem__(self, contexts: np.ndarray) -> np.ndarray:
        first = int(contexts.min())
        return self._array[first : int(contexts.max()) + 1][contexts - first]


def _count(there: int, context_size: int, most_tokens: int) -> int:
    """The contexts to read: as many as hold so many tokens, at least one."""
    return max(1, min(there, most_tokens // context_size))


def require_counted(tokens: int, read: int) -> None:
    """Raise NotEnoughTokens if no token counts."""
    if not tokens:
        raise NotEnoughTokens(
            f"of {read:,} tokens none counts: raise features.tokens, lower activations.skip_*_positions, raise "
            "activations.max_norm_factor, or see what tokenize masks"
        )


def limits_of(inputs: Mapping[str, Artifact], places: Sequence[Place], reading: Reading) -> dict[Place, float]:
    """The largest norm that a token may have at each place; none without `max_norm_factor`."""
    from lmsae.stages.inputs.stored import moments_of

    if reading.max_norm_factor is None:
        return {}
    norms = [float(moments_of(norm)["max_norm"]) for norm in inputs_from("norm", inputs)]
    return dict(zip(places, norms, strict=True))
