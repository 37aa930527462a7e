"""Token ids beside own activations: one for each vector, in files of the same forms, asked for by the numbers of
vectors."""

import numpy as np
import torch
from torch import Tensor

from lmsae.errors import SourceError
from lmsae.lm.resolving import ResolvedModel
from lmsae.text.tokens import dtype_of
from lmsae.vectors.headers import TOKEN_IDS
from lmsae.vectors.opened import Vectors, read_some
from lmsae.vectors.sources import require_same_states, require_unchanged, states_of

MOST_IDS = 2**20
"""The number of ids that there may be where no tokenizer tells: tables of all ids stay small, and vocabularies are
smaller."""
READ_AT_ONCE = 2**20


class StoredIds:
    """The token ids of a source."""

    def __init__(self, source: ResolvedModel) -> None:
        """Reads every byte once, to know them. Raises ChangedSource if they are not those that were planned."""
        self._source, header = source, require_unchanged(source, TOKEN_IDS)
        self._ids, self._states = Vectors(header), states_of(header)

    def read(self, numbers: np.ndarray, vocabulary: int = MOST_IDS, of: str = "") -> np.ndarray:
        """The ids of the vectors of these numbers, in the same shape and in the dtype of a text's ids.

        Raises SourceError, with file and place, for an id that a vocabulary of that size does not have; `of` names it.
        Raises ChangedSource if a file has changed since it was opened.
        """
        wanted, found = numbers.reshape(-1), np.empty(numbers.size, dtype_of(vocabulary))
        for start in range(0, len(wanted), READ_AT_ONCE):
            here = slice(start, start + READ_AT_ONCE)
            some = torch.from_numpy(wanted[here].astype(np.int64))
            ids = read_some(self._ids, some).squeeze(1)
            self._require_known(ids, some, vocabulary, of)
            found[here] = ids.numpy()
        require_same_states(self._source, self._ids.header, self._states)
        return found.reshape(numbers.shape)

    def _require_known(self, ids: Tensor, numbers: Tensor, vocabulary: int, of: str) -> None:
        odd = (ids < 0) | (ids >= vocabulary)
        if odd.any():
            first = int(odd.nonzero()[0])
            where, those = self._ids.place(int(numbers[first])), f", those of {of}" if of else ""
            raise SourceError(f"{where} has the token id {ids[first]}; wanted: 0 to {vocabulary - 1:,}{those}")
