"""The sweeps that were planned in a folder of artifacts: what each of them wants, and where its results are.

    artifacts/sweeps/<name>-<digest>.json   one sweep or experiment, as it was planned last

Several sweeps share artifacts. None takes anything from another: each has its results in a folder of its own, and
`lmsae gc` keeps what any of them wants.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsae.artifacts.artifact import Artifacts, write_atomically
from lmsae.artifacts.inside import require_reference
from lmsae.config import canonical_json, key_of
from lmsae.errors import DamagedArtifact
from lmsae.stages.origin import Origin
from lmsae.stages.published import Published

FOLDER = "sweeps"


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was planned: its origin, its folder of results, and the references that each row wants.

    What it wants as a whole, its report, stands under the name of no row, "".
    """

    origin: Origin
    results: Path
    wants: Mapping[str, Sequence[str]]

    @property
    def references(self) -> Set[str]:
        """The references of all that it wants."""
        return self._rows_by_reference.keys()

    def names_of_rows(self, reference: str) -> list[str]:
        """The rows that want an artifact; none for one of the whole sweep."""
        return [row for row in self._rows_by_reference.get(reference, ()) if row]

    @cached_property
    def _rows_by_reference(self) -> Mapping[str, Sequence[str]]:
        rows: dict[str, list[str]] = {}
        for row, references in self.wants.items():
            for reference in dict.fromkeys(references):
                rows.setdefault(reference, []).append(row)
        return rows

    def note(self, artifacts: Artifacts) -> None:
        """Write the sweep beside the artifacts, in the place of what was planned of it before."""
        path = self.path(artifacts)
        path.parent.mkdir(parents=True, exist_ok=True)
        results = os.path.relpath(self.results, artifacts.root).replace(os.sep, "/")
        described = json.dumps({**self.origin.describe(path.parent), "results": results}, indent=1)
        wants = ",\n".join([f"  {json.dumps(row)}: {json.dumps(list(one))}" for row, one in self.wants.items()])
        text = f'{described.removesuffix(chr(10) + "}")},\n "wants": {{\n{wants}\n }}\n}}\n'
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)

    def path(self, artifacts: Artifacts) -> Path:
        """The file of this sweep beside the artifacts."""
        return artifacts.root / FOLDER / f"{self.origin.key(artifacts.root)}.json"

    @classmethod
    def read(cls, path: Path, artifacts: Artifacts) -> "Sweep":
        """A sweep from its file. Raises DamagedArtifact if that holds something else."""
        try:
            found = json.loads(path.read_text())
            wants = {row: [require_reference(one, path) for one in found["wants"][row]] for row in found["wants"]}
            results = Path(os.path.normpath(artifacts.root / found["results"]))
            return cls(Origin.read(found, path), results, wants)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedArtifact(
                f"{path}: it is no sweep ({error!r}). Plan that sweep again, or delete the file to forget it."
            ) from None


def known_sweeps(artifacts: Artifacts) -> Iterator[Sweep]:
    """Every sweep that was planned in a folder of artifacts, by name."""
    for path in sorted((artifacts.root / FOLDER).glob("*.json")):
        yield Sweep.read(path, artifacts)


def origin_of(config: Path | Mapping[str, Any], sheet: Path | None, name: str, is_named: bool, keys: object) -> Origin:
    """The origin of what was planned: its files or, if Python was told of it, its name.

    A row that nobody named is called after its `keys`, what it wants: another one is another experiment.
    """
    if isinstance(config, Path):
        files = tuple(Path(os.path.abspath(file)) for file in (config, sheet) if file)
        of_sheet = files[0].parent.name if sheet is None or sheet.stem == "sweep" else sheet.stem
        return Origin((of_sheet.lstrip(".") or "sweep") if sheet else name, files)
    return Origin(name if is_named else f"{name}-{key_of(canonical_json(keys))[:8]}")


def choose_results(origin: Origin, results: Path, artifacts: Artifacts, *, is_asked_for: bool) -> Path:
    """The folder for the results of a sweep: the one asked for, unless another sweep has it, else one of its own in it.

    A single experiment gets a folder of its own in the default one.
    """
    known = {sweep.path(artifacts).name: sweep for sweep in known_sweeps(artifacts)}
    own = known.pop(f"{origin.key(artifacts.root)}.json", None)
    taken = {_absolute(sweep.results) for sweep in known.values() if sweep.origin.is_living}
    is_experiment = len(origin.files) < 2
    first = results / origin.name if is_experiment and not is_asked_for else results
    choices = [first, results / origin.name, results / origin.key(artifacts.root)]
    if own and (kept := [one for one in choices if _absolute(one) == _absolute(own.results)]):
        choices = [kept[0], *choices]
    free = (one for one in choices if _absolute(one) not in taken and not Published.read(one).is_of_another(origin))
    return next(free, choices[-1])


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
