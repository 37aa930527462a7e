"""The live source: the activations of a window come from the language models, just in time, and are never stored."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from lmsae.artifacts.artifact import Artifact
from lmsae.stages.activations import Config, LMConfig
from lmsae.stages.sites import inputs_from

if TYPE_CHECKING:
    from torch import Tensor

    from lmsae.lm.protocol import LanguageModel
    from lmsae.store.reader import StoreReader


def live_captures(inputs: Mapping[str, Artifact]) -> list[Config]:
    """The captures, by number, of those inputs that are captured while a job trains; none if all are stored."""
    captures = [Config.model_validate(one.spec().config) for one in inputs_from("activations", inputs)]
    return [capture for capture in captures if capture.source == "live"]


class ContextIds(Protocol):
    """Token ids (contexts, context_size) that are read by the numbers of contexts."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, contexts: np.ndarray, /) -> np.ndarray: ...


class _Batch(NamedTuple):
    """Contexts that the model runs together, which of them are wanted, and where in the window those go."""

    contexts: np.ndarray
    wanted: slice | np.ndarray
    places: slice


class Live:
    """Activations captured window by window (an ActivationSource): the rows that stores of all contexts would hold.

    The small stores of calibration contexts say how a row is encoded.
    """

    def __init__(
        self,
        captures: Sequence[Config],
        stores: "Sequence[StoreReader]",
        ids: ContextIds,
        models: "Mapping[LMConfig, LanguageModel]",
    ) -> None:
        """A capture and the store that it has begun for each hook point; `ids` are (contexts, context_size)."""
        self.contexts, self.context_size = ids.shape
        self.chunk_contexts = stores[0].layout.chunk_contexts
        self._stores, self._ids, self._models = tuple(stores), ids, models
        self._batch_contexts = captures[0].batch_contexts
        self._hook_points: dict[LMConfig, list[str]] = defaultdict(list)
        for capture in captures:
            self._hook_points[capture.model].append(capture.hook_point)
        self._places = [(capture.model, capture.hook_point) for capture in captures]

    def buffers(self, tokens: int) -> "list[Tensor]":
        """Memory for so many tokens of each hook point, as they would be stored."""
        return [store.buffer(tokens) for store in self._stores]

    def decode(self, parts: "Sequence[Tensor]", taken: "Tensor") -> "list[Tensor]":
        """The activations of tokens of each buffer, (taken, width) float32, in memory of their own."""
        return [store.codec.decode(part, taken) for store, part in zip(self._stores, parts, strict=True)]

    def announce(self, chunks: np.ndarray) -> None:
        """Nothing: models are not asked for what may not be wanted in the end."""

    def load(self, chunks: np.ndarray, buffers: "Sequence[Tensor]", is_wanted: Callable[[], bool]) -> None:
        """Capture chunks at all hook points, each model in one forward pass a batch.

        Raises:
            SourceError: if a value is not a number, is infinite, or becomes so in the stores' dtype.
        """
        contexts = (chunks[:, None] * self.chunk_contexts + np.arange(self.chunk_contexts)).reshape(-1)
        windows = [buffer.view(-1, self.context_size, buffer.shape[-1]) for buffer in buffers]
        for batch in self._batches(contexts):
            if not is_wanted():
                return
            self._capture(batch, windows)

    def _batches(self, contexts: np.ndarray) -> Iterator[_Batch]:
        """The batches that hold these contexts, which ascend. They have the sizes of a capture of all contexts.

        A model may round otherwise in batches of another size (what else is in a batch makes no difference to a
        context). So the last batch is filled up, and the rest of the text is run as the smaller batch that it is.
        """
        size = self._batch_contexts
        begin = self.contexts - self.contexts % size
        whole, rest = contexts[contexts < begin], contexts[(contexts >= begin) & (contexts < self.contexts)]
        for start in range(0, len(whole), size):
            taken = whole[start : start + size]
            filled = np.pad(taken, (0, size - len(taken)), mode="edge")
            yield _Batch(filled, slice(len(taken)), slice(start, start + len(taken)))
        if len(rest):
            yield _Batch(np.arange(begin, self.contexts), rest - begin, slice(len(whole), len(whole) + len(rest)))

    def _capture(self, batch: _Batch, windows: "Sequence[Tensor]") -> None:
        import torch

        ids = torch.from_numpy(self._ids[batch.contexts].astype("int64"))
        read = {model: self._models[model].read(ids, names) for model, names in self._hook_points.items()}
        for (model, name), store, window in zip(self._places, self._stores, windows, strict=True):
            _encode(read[model][name][batch.wanted], store, window[batch.places], name, batch)


def _encode(activations: "Tensor", store: "StoreReader", rows: "Tensor", name: str, batch: _Batch) -> None:
    """Write the rows of activations as their store would hold them."""
    import torch

    from lmsae.store.codec import require_storable

    norms = torch.linalg.vector_norm(activations, dim=-1, dtype=torch.float32)
    if not (norms <= store.codec.largest_norm).all():  # nor if one is not a number

        def place(context: int) -> str:
            return f"{name}: context {batch.contexts[batch.wanted][context]:,}"

        require_storable(activations, store.codec.storable_mask(activations), store.dtype, place)
    store.codec.encode(activations, rows)
