"""Stored activations in Python: in token order, and as a stream of shuffled batches: `lmsae.activations`."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.artifacts.artifact import Artifacts
from lmsae.commands.finding import find_of_row
from lmsae.errors import MissingArtifact
from lmsae.stages.activations import STORE
from lmsae.stages.activations import Config as Capture
from lmsae.stages.inputs.usable import Usable
from lmsae.stages.sites import Reading, inputs_from
from lmsae.store.batches import ShuffledBatches
from lmsae.store.order import WINDOW_TOKENS, blocks_of
from lmsae.store.reader import StoreReader
from lmsae.store.spilled import SpilledArray
from lmsae.store.stores import Stores
from lmsae.text.tokens import TokenSet, open_tokens

_STAGES = ("train", "features", "activations")


@dataclass(frozen=True)
class StoredActivations:
    """The activations of the training text at some hook points, as a row reads them.

    `len` is the number of contexts. The first `calibration_contexts` are those that no dictionary trains on.
    """

    hook_points: tuple[str, ...]
    readers: Sequence[StoreReader]
    tokens: TokenSet
    reading: Reading

    def __len__(self) -> int:
        return len(self.tokens.train)

    @property
    def context_size(self) -> int:
        """Tokens in a context."""
        return self.tokens.context_size

    @property
    def calibration_contexts(self) -> int:
        """The number of contexts at the head that norms and starting weights are measured on."""
        return self.tokens.calibration_contexts

    @property
    def widths(self) -> dict[str, int]:
        """The width of each hook point."""
        return {name: one.width for name, one in zip(self.hook_points, self.readers, strict=True)}

    def read(self, start: int, stop: int) -> dict[str, Float[Tensor, "contexts position _"]]:
        """The activations of contexts `start` to `stop` at each hook point, in token order, float32."""
        return {name: one.read(start, stop) for name, one in zip(self.hook_points, self.readers, strict=True)}

    def ids(self, start: int, stop: int) -> Int[Tensor, "contexts position"]:
        """The token ids of contexts."""
        return torch.from_numpy(self.tokens.train[start:stop].astype("int64"))

    def usable(self, start: int, stop: int) -> Bool[np.ndarray, "contexts position"]:
        """The tokens of contexts that dictionaries train on: not special, not masked, and where the row reads."""
        return self._usable()[start:stop]

    def batches(
        self,
        batch_size: int = 4096,
        *,
        steps: int | None = None,
        start_step: int = 0,
        seed: int = 0,
        whole_contexts: bool = False,
        window_tokens: int = WINDOW_TOKENS,
    ) -> Iterator[dict[str, Float[Tensor, "*batch _"]]]:
        """A stream of shuffled batches of usable tokens behind the calibration split, (batch_size, width) float32 of
        each hook point, at the same tokens.

        Step s is a function of seed and s alone, so a stream may begin at any `start_step`. `steps` is by default an
        epoch; after each, tokens come again in another order. With `whole_contexts` batches are (contexts, position,
        width). Memory holds two windows of `window_tokens` tokens that are shuffled together. Raises NotEnoughTokens.
        """
        stream = ShuffledBatches(
            Stores(self.readers),
            SpilledArray(blocks_of(self._usable()), Path(tempfile.gettempdir())),
            batch_size=batch_size,
            seed=seed,
            first=self.calibration_contexts,
            window_tokens=window_tokens,
            whole_contexts=whole_contexts,
        )
        last = start_step + (stream.tokens_per_epoch // batch_size if steps is None else steps)
        for parts in stream.batches(start_step, last):
            yield dict(zip(self.hook_points, parts, strict=False))

    def _usable(self) -> Usable:
        return Usable(self.tokens, [one.path for one in self.readers], self.reading)


def activations(
    name: str,
    *,
    artifacts: Path | str = "artifacts",
    results: Path | str = "results",
    also_look_in: Sequence[Path | str] = (),
) -> StoredActivations:
    """The stored activations that a row's dictionary is trained on, or those of an artifact.

    `name` is a row, or the first digits of a key of activations, or of a dictionary. `artifacts` is the folder of
    all artifacts, `also_look_in` names folders of others, and `results` is one of those where rows are published. A
    hook point of another model than the first is called HOOK_POINT@NUMBER.

    Raises MissingArtifact if the name means nothing, or nothing is stored (`activations.source` live).

        stream = lmsae.activations("resid2-topk-32")
        for batch in stream.batches(4096):
            x = batch["blocks.2.hook_resid_post"]
    """
    everything = Artifacts(Path(artifacts), [Path(folder) for folder in also_look_in])
    found = find_of_row(name.removesuffix("/activations"), _STAGES, everything, Path(results)) or everything.find(name)
    spec = found.spec()
    references = [found.reference] if spec.stage == "activations" else inputs_from("activations", spec.inputs)
    if not references:
        raise MissingArtifact(f"{found.reference} was not made from activations. Name a row, or a key of activations.")
    stored = [everything[reference].require_intact() for reference in references]
    captures = [Capture.model_validate(one.spec().config) for one in stored]
    if any(capture.source == "live" for capture in captures):
        raise MissingArtifact(
            f"{name}: activations.source is live, so that training captures activations and stores none. Set it to "
            "cached, or read them of the model: lmsae.load(NAME).read(text)."
        )
    fields = {key: spec.config[key] for key in Reading.model_fields if key in spec.config}
    return StoredActivations(
        _names(captures),
        [StoreReader(one.path / STORE) for one in stored],
        open_tokens(everything[spec.inputs["tokens"]].require_intact().path),
        Reading.model_validate(fields),
    )


def _names(captures: Sequence[Capture]) -> tuple[str, ...]:
    models = list(dict.fromkeys(capture.model for capture in captures))
    numbers = [models.index(capture.model) for capture in captures]
    return tuple(
        f"{capture.hook_point}@{number}" if number else capture.hook_point
        for capture, number in zip(captures, numbers, strict=True)
    )
