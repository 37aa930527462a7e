"""Reading what the stage `features` wrote: `lmsae.features(KEY)`."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from lmsae.config import JsonObject
from lmsae.errors import FolderError
from lmsae.interpretation.explaining.on_disk import folder_of, read_table, with_explanations
from lmsae.interpretation.schema import CONTEXTS, GROUP_LATENTS, INFO, LATENTS, Info


class Features:
    """The latents of a dictionary as the stage `features` described them (docs/features.md)."""

    def __init__(self, folder: Path, explanations: Path | None = None) -> None:
        """Open a folder, and that of its explanations if it has any. Raises FolderError, naming the file, if one is
        missing or of another version."""
        self.folder = folder
        self.info = _read_info(folder / INFO)
        self.explanations = read_table(explanations) if explanations else None
        """A row for each latent that `lmsae explain` was asked about (docs/sharing.md); None if there is none."""

    def latents(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each latent, with all columns or those of some that are there: `.to_pandas()` makes a data frame of
        it. If any latent is explained, with the explanation and its scores."""
        there = self._latents.schema_arrow.names
        table = self._latents.read(None if columns is None else [name for name in columns if name in there])
        if self.explanations is not None:
            table = with_explanations(table, range(len(table)), self.explanations)
        return table if columns is None else table.select([name for name in table.column_names if name in columns])

    def latent(self, number: int) -> JsonObject:
        """The row of one latent. Only its row group is read."""
        row = self._rows(self._latents, number)[0]
        if self.explanations is None:
            return row
        (explained,) = with_explanations(pa.table({"latent": [number]}), [number], self.explanations).to_pylist()
        return {**row, **explained}

    def contexts(self, number: int | None = None) -> pa.Table:
        """The pieces of text that show a latent, or all pieces of all latents."""
        if number is None:
            return self._contexts.read()
        return pa.Table.from_pylist(self._rows(self._contexts, number), schema=self._contexts.schema_arrow)

    def groups(self, first: int, last: int) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The latents from `first` up to `last`, at most GROUP_LATENTS of them at a time, and the text that shows
        them. A file is never in memory as a whole."""
        for number in range(first // GROUP_LATENTS, -(-last // GROUP_LATENTS)):
            some = []
            for file in (self._latents, self._contexts):
                group = file.read_row_group(number)
                latents = group["latent"].to_numpy()
                some.append(group.filter(pa.array((first <= latents) & (latents < last))))
            yield some[0], some[1]

    @cached_property
    def _latents(self) -> pq.ParquetFile:
        return _open(self.folder / LATENTS)

    @cached_property
    def _contexts(self) -> pq.ParquetFile:
        return _open(self.folder / CONTEXTS)

    def _rows(self, file: pq.ParquetFile, number: int) -> list[JsonObject]:
        if not 0 <= number < self.info.latents:
            raise IndexError(f"latent {number}: {self.folder} has {self.info.latents:,}, counted from 0")
        group = file.read_row_group(number // GROUP_LATENTS)
        here = pa.array(group["latent"].to_numpy() == number)
        return group.filter(here).to_pylist()


def open_features(folder: Path | str, results: Path | None = None) -> Features:
    """The features in a folder, with their explanations among results. Raises FolderError if there are none, or of
    another version."""
    return Features(Path(folder), folder_of(results, Path(folder).resolve().name) if results else None)


def _read_info(file: Path) -> Info:
    try:
        return Info.model_validate_json(file.read_text())
    except FileNotFoundError:
        raise FolderError(
            f"{file} is missing, so this is no folder of features. `lmsae run` makes one for each row of a sweep "
            "(artifacts/features/KEY, or results/rows/ROW/features)."
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise FolderError(
            f"{file}, {where}: found {problem.get('input')!r}; {problem['msg']}. It was written by another version of "
            "lmsae, or is damaged: delete the artifact and run the sweep again."
        ) from None


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise FolderError(f"{file} cannot be read ({error}). Delete the artifact and run the sweep again.") from None
