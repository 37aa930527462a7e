"""Scoring: reconstruct held-out activations, splice the reconstruction into the model, and measure both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import NotEnoughTokens
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.measures import ON_TEXT, WITHOUT_TEXT, Batch, Measure
from lmsae.evaluation.model_passes import ModelPasses
from lmsae.evaluation.scores import Score
from lmsae.lm.continuing import wanted_residual
from lmsae.lm.protocol import LanguageModel
from lmsae.metrics.bins import Bins, members_of, position_bins, rate_bins
from lmsae.metrics.contexts import Places


class TokenIds(Protocol):
    """An array of token ids (contexts, context_size), in memory or on disk."""

    def __getitem__(self, contexts: slice, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """The text to score on: token ids and which of them count, both (contexts, context_size).

    Tokens whose activation has a norm above `max_norms` at any of its hook points do not count either. `counts` says
    how often each id occurs in training text, (d_vocab,) int; without it, nothing is broken down by token frequency.
    `token_ids` are the ids that are counted where `ids` are numbers of own activations.
    """

    ids: TokenIds
    usable: np.ndarray
    max_norms: Mapping[HookPoint, float] = field(default_factory=dict)
    counts: np.ndarray | None = None
    has_text: bool = True
    """False for own activations: ids are numbers, and no token has a next one."""
    has_positions: bool = True
    token_ids: np.ndarray | None = None

    def scored(self, counted: Any) -> Any:
        """Those of the tokens that count, (contexts, context_size), at least one of which there must be: of text those
        with a next token."""
        return counted[:, :-1] if self.has_text else counted

    def bins(self) -> list[Bins]:
        """The bins of tokens, of every kind, by which metrics are broken down."""
        kinds = [position_bins(self.usable.shape[1])] if self.has_positions else []
        return kinds if self.counts is None else [*kinds, rate_bins(self.counts)]

    def counted(self, usable: Tensor, activations: Mapping[HookPoint, Tensor]) -> Tensor:
        """The tokens of a batch that count, (contexts, context_size) bool."""
        for hook_point, limit in self.max_norms.items():
            usable = usable & (torch.linalg.vector_norm(activations[hook_point], dim=-1, dtype=torch.float32) <= limit)
        return usable

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and usable positions of `size` contexts at a time."""
        for start in range(0, len(self.usable), size):
            chosen = slice(start, min(start + size, len(self.usable)))
            ids = torch.from_numpy(self.ids[chosen].astype("int64"))
            yield ids, torch.from_numpy(self.usable[chosen])

    def token_ids_of(self, first: int, ids: Tensor) -> Tensor:
        """The token ids of a batch of contexts, by the number of its first, where these are its `ids`."""
        if self.token_ids is None:
            return ids
        return torch.from_numpy(self.token_ids[first : first + len(ids)].astype("int64")).to(ids.device)


@torch.inference_mode()
def score(
    models: Sequence[LanguageModel],
    dictionaries: Sequence[HookedDictionary],
    text: HeldOutText,
    batch_contexts: int,
    advance: Callable[[int], None],
) -> list[Score | Exception]:
    """Score every dictionary, each in its groups, on all contexts of `text`, in their order.

    Tokens that do not count keep their own activation when the model is spliced or ablated, and no metric counts them.
    A dictionary that writes several hook points is spliced in at all of them at once; of several models the sums are
    pooled. A group gives the same score whatever other groups and dictionaries are measured beside it: one that cannot
    be scored gives its error, and the others their scores. Raises NotEnoughTokens if no token counts.
    """
    passes = ModelPasses(models)
    scorings = [_Scoring(hooked, passes) for hooked in dictionaries]
    kinds, some_count, first = text.bins(), False, 0
    for ids, usable in text.batches(batch_contexts):
        ids, usable = ids.to(models[0].device), usable.to(models[0].device)
        activations = read_activations(models, dictionaries, text, ids)
        counted = text.counted(usable, activations)
        some_count = some_count or bool(text.scored(counted).any())
        passes.begin(ids, counted, activations)
        places = Places(counted, members_of(kinds, text.token_ids_of(first, ids), counted))
        for scoring in scorings:
            scoring.update(activations, ids, places)
        advance(ids.numel())
        first += len(ids)
    if not some_count:
        raise NotEnoughTokens(
            "every held-out token that has a next token is above the largest norm: raise activations.max_norm_factor"
        )
    return [scoring.result(kinds) for scoring in scorings]


class _Scoring:
    """One dictionary being scored, up to its first error."""

    def __init__(self, hooked: HookedDictionary, passes: ModelPasses) -> None:
        self._hooked = hooked
        self._measures: list[Measure] = []
        self._error: Exception | None = None
        try:
            self._measures = [measure(hooked, passes) for name, measure in ON_TEXT.items() if name in hooked.groups]
        except Exception as error:
            self._error = error

    def update(self, activations: Mapping[HookPoint, Tensor], ids: Tensor, places: Places) -> None:
        """Take in a batch: the activations of its contexts, its token ids, and the places of those that count."""
        if self._error:
            return
        try:
            batch = _reconstruct(self._hooked, activations, ids, places)
            for measure in self._measures:
                measure.update(batch)
        except Exception as error:
            self._error = error

    def result(self, kinds: Sequence[Bins]) -> Score | Exception:
        """The score of all text, or the error that ended it."""
        if self._error:
            return self._error
        try:
            found = score_without_text(self._hooked)
            for measure in self._measures:
                found |= measure.score(kinds)
        except Exception as error:
            return error
        return found


@torch.inference_mode()
def score_without_text(hooked: HookedDictionary) -> Score:
    """The score of a dictionary in those of its groups that need neither text nor a model."""
    found = Score()
    for name, measure in WITHOUT_TEXT.items():
        if name in hooked.groups:
            found |= measure(hooked)
    return found


def _reconstruct(
    hooked: HookedDictionary, activations: Mapping[HookPoint, Tensor], ids: Tensor, places: Places
) -> Batch:
    x = torch.cat([activations[hook_point].float() for hook_point in hooked.reads], dim=-1)
    target = torch.cat([activations[hook_point].float() for hook_point in hooked.writes], dim=-1)
    codes = hooked.dictionary.encode(x)
    return Batch(ids, places, target, hooked.dictionary.decode(codes, x), codes)


def read_activations(
    models: Sequence[LanguageModel], dictionaries: Sequence[HookedDictionary], text: HeldOutText, ids: Tensor
) -> dict[HookPoint, Tensor]:
    """The activations at every hook point that any dictionary reads or writes, or that decides which tokens count, and
    the residual streams from which the models can be run on."""
    needed = [hook_point for hooked in dictionaries for hook_point in (*hooked.reads, *hooked.writes)]
    for hooked in (hooked for hooked in dictionaries if "model" in hooked.groups):
        for model in hooked.models:
            stream = wanted_residual(name for number, name in hooked.writes if number == model)
            if stream in models[model].hook_points():
                needed.append(HookPoint(model, stream))
    wanted: dict[int, list[str]] = {}
    for model, name in dict.fromkeys([*needed, *text.max_norms]):
        wanted.setdefault(model, []).append(name)
    return {
        HookPoint(model, name): activations
        for model, names in wanted.items()
        for name, activations in models[model].read(ids, names).items()
    }
