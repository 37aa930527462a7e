"""The documents that tokens come from: their names in a file, and the places of tokens in them.

documents.parquet   split: train or held_out
                    document: its index in the split, as in `<split>_documents` of tokens.zarr
                    source: the text of the mixture that it is from, or the text
                    name: its name there, such as a file or the number of a row
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lmsae.text.tokens import Split, TokenSet

if TYPE_CHECKING:
    import pyarrow as pa

DOCUMENTS = "documents.parquet"
GROUP = 65_536
"""Documents of a row group."""


class NamedDocument(NamedTuple):
    """A line of `documents.parquet`."""

    split: str
    document: int
    source: str
    name: str


def write_documents(documents: Iterable[NamedDocument], directory: Path) -> None:
    """Write `documents.parquet`, a group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = [("split", pa.string()), ("document", pa.int32()), ("source", pa.string()), ("name", pa.string())]
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds])
    waiting = iter(documents)
    with pq.ParquetWriter(directory / DOCUMENTS, schema, compression="zstd") as writer:
        while group := list(islice(waiting, GROUP)):
            columns = zip(*group, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))


class SplitDocuments:
    """The documents of one split."""

    def __init__(self, tokens: TokenSet, split: Split, directory: Path, *, has_bos: bool) -> None:
        """`directory` holds `documents.parquet`; with `has_bos` each context begins with a token of no document."""
        self._documents = tokens.train_documents if split == "train" else tokens.held_out_documents
        self._split, self._directory, self._has_bos = split, directory, has_bos
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def place(self, contexts: np.ndarray, positions: np.ndarray) -> "tuple[pa.Array, np.ndarray]":
        """The documents of some tokens, by the numbers of their contexts and their positions: their names, and the
        places of the tokens among their documents' tokens, from 0, separators included."""
        import pyarrow as pa

        if not len(contexts):
            return pa.array([], pa.string()), np.zeros(0, np.int64)
        indices, carried = self._read(int(contexts.max()) + 1)
        of_token = indices[contexts, positions]
        first_of_run = (indices[contexts] == of_token[:, None]).argmax(1)
        is_first = first_of_run == 0
        before = np.where(is_first, carried[contexts] - self._has_bos, -first_of_run)
        return self._names.take(pa.array(of_token)), np.maximum(before + positions, 0)

    @cached_property
    def _names(self) -> "pa.Array":
        """The name of each document by its index; with its source, if there are several."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(self._directory / DOCUMENTS, filters=[("split", "=", self._split)])
        names = table["name"].combine_chunks()
        if len(table["source"].unique()) > 1:
            pairs = zip(table["source"].to_pylist(), names.to_pylist(), strict=True)
            names = pa.array([f"{source}: {name}" for source, name in pairs], pa.string())
        indices = table["document"].to_numpy()
        by_index = np.full(int(indices.max(initial=-1)) + 1, -1)
        by_index[indices] = np.arange(len(indices))
        return names.take(pa.array(by_index, mask=by_index < 0))

    def _read(self, contexts: int) -> tuple[np.ndarray, np.ndarray]:
        """The document of each token of the first contexts, and of each context's first document the number of tokens
        that stand in earlier contexts."""
        if self._known is None or len(self._known[0]) < contexts:
            indices = self._documents[0:contexts]
            self._known = indices, np.fromiter(_carry(indices, self._has_bos), np.int64, contexts)
        return self._known


def _carry(indices: np.ndarray, has_bos: bool) -> Iterator[int]:
    """Yield, of each context's first document, the number of its tokens in earlier contexts.

    Contexts of several texts may take turns. Documents of one text follow each other.
    """
    first, last = indices[:, 0].tolist(), indices[:, -1].tolist()
    at_end = (indices == indices[:, -1:]).sum(1).tolist()
    unfinished: dict[int, int] = {}
    for begins, ends, count in zip(first, last, at_end, strict=True):
        carried = unfinished.pop(begins, 0)
        yield carried
        unfinished[ends] = carried + count - has_bos if begins == ends else count
