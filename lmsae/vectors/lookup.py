"""Own activations behind the protocol of a language model: its tokens are the numbers of vectors.

What reads activations of a model reads them so, batch by batch. Of what a model does besides there is nothing: vectors
have no logits, and whatever wants those was refused when planned.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.errors import SourceError
from lmsae.lm.protocol import Edit
from lmsae.lm.resolving import ResolvedModel
from lmsae.vectors.opened import Vectors, read_some
from lmsae.vectors.sources import config_of, path_of, require_same_states, require_unchanged, states_of


class Lookup:
    """The vectors of a source (a LanguageModel)."""

    def __init__(self, source: ResolvedModel, device: str) -> None:
        """Reads every byte once, to know them. Raises ChangedSource if they are not those that were planned."""
        self._source, header = source, require_unchanged(source)
        self._vectors, self._states = Vectors(header), states_of(header)
        self.config: JsonObject = config_of(source)
        self.device = torch.device(device)
        self.weights: Mapping[str, Tensor] = {}
        self.d_vocab, self.max_context = 0, None

    def hook_points(self) -> dict[str, int]:
        """One, whose name is the path."""
        return {path_of(self._source): self._vectors.header.width}

    def start_cache(self) -> None:
        """None: vectors have no keys and values."""

    def read(
        self, tokens: Int[Tensor, "batch context"], hook_points: Sequence[str], cache: object = None
    ) -> dict[str, Float[Tensor, "batch context _"]]:
        """The vectors of these numbers, under whatever names they are asked for."""
        assert cache is None, "start_cache gave none"
        found = read_some(self._vectors, tokens.flatten()).view(*tokens.shape, -1).to(self.device)
        return dict.fromkeys(hook_points, found)

    def require_unchanged(self) -> None:
        """Raise ChangedSource if a file has changed since it was opened."""
        require_same_states(self._source, self._vectors.header, self._states)

    def logits(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context d_vocab"]:
        """Raises SourceError: vectors have none."""
        raise SourceError(f"{path_of(self._source)}: own activations have no logits")

    def logits_with(
        self, tokens: Int[Tensor, "batch context"], edits: Mapping[str, Edit], cache: object = None
    ) -> Float[Tensor, "batch context d_vocab"]:
        """Raises SourceError: vectors have none."""
        return self.logits(tokens)

    def logits_from(
        self,
        tokens: Int[Tensor, "batch context"],
        layer: int,
        residual: Float[Tensor, "batch context d_model"],
        edits: Mapping[str, Edit],
    ) -> Float[Tensor, "batch context d_vocab"]:
        """Raises SourceError: vectors have none."""
        return self.logits(tokens)
