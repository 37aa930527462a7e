"""The reading of a row's sections: cells -> validated values, each read once for all rows with the same cells."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import suggest
from lmsae.geometry.config import Widths
from lmsae.initialization.config import InitConfig
from lmsae.interop.finished import Finished
from lmsae.planning.adopting import SAE_FROM
from lmsae.planning.catalog import CATALOG, with_defaults
from lmsae.planning.cells import Row
from lmsae.planning.dictionaries import Parts, SaeSection, assemble, read_parts
from lmsae.planning.draft import Draft
from lmsae.planning.from_files import reads_files
from lmsae.planning.remembering import Memory
from lmsae.planning.sheet import SAE, SECTIONS, read_section
from lmsae.stages.activations import Capture
from lmsae.training.objective import Objective

Section = TypeVar("Section", bound=Frozen)
Sae = tuple[SaeSection | None, Parts | None]
Built = tuple[DictionaryConfig, Objective]


class RowReader:
    """Reads the sections of rows, and what they make together."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._columns: dict[Hashable, frozenset[str]] = {}

    def read_sections(self, draft: Draft, idle: Collection[str]) -> dict[str, Frozen]:
        """The sections of the row that are valid, but for that of the dictionary and those that mean nothing to it."""
        sections, given = {}, draft.row.sections()
        for name in (name for name in SECTIONS if name != SAE and name not in idle):
            values = given.get(name, {})

            def read(name: str = name, values: Mapping[str, Any] = values) -> Frozen | None:
                return read_section(draft.row, name, values, draft.refuse)

            section = self._memory.of_values(name, values, read)
            if draft.learn(name, section) is not None:
                sections[name] = section
        return sections

    def read_sae(self, draft: Draft) -> Sae:
        """The columns of the dictionary that all architectures have, and its parts with their own."""
        given = draft.row.section(SAE)
        found: list[Sae] = []

        def read() -> Sae | None:
            found.append(_read_sae(draft, given))
            return None if draft.is_refused else found[0]

        sae, parts = self._memory.of_values(SAE, given, read) or found[0]
        if sae is not None and given.get("from") is None:
            draft.learn("own_columns", self.own_columns(draft.row))
            draft.learn(SAE, sae)
            draft.learn("parts", parts)
        return sae, parts

    def assemble(
        self, draft: Draft, sae: SaeSection | None, parts: Parts | None, reads: Sequence[int], writes: Sequence[int]
    ) -> Built | None:
        """The row's dictionary, for hook points of these widths, and its objective."""
        if sae is None or parts is None:
            return None
        kind = ("dictionary", *reads, None, *writes)
        built = self._memory.of_objects(kind, (sae, parts), lambda: assemble(sae, parts, reads, writes, draft.refuse))
        if built is not None:
            draft.learn("dictionary", built[0])
            draft.learn("objective", built[1])
        return built

    def settle(
        self, sections: Mapping[str, Frozen], dictionary: DictionaryConfig, is_trained: bool
    ) -> dict[str, Frozen]:
        """The same sections, with the values that empty columns stand for in a row of this dictionary. A row that is
        not trained stores activations of the calibration split alone."""
        settled = dict(sections)
        for name, section in sections.items():
            if isinstance(section, InitConfig):
                settled[name] = self._memory.of_objects(
                    "settled", (section, dictionary), lambda one=section: one.settled(dictionary)
                )
            if not is_trained and isinstance(section, Capture) and not reads_files(section):
                settled[name] = section.model_copy(update={"source": "live"})
        return settled

    def own_columns(self, row: Row) -> frozenset[str]:
        """The row's own columns: of all rows with the same one object, so that what reads them is remembered."""
        return self.share(row.own_columns)

    def share(self, columns: frozenset[str]) -> frozenset[str]:
        """The first object of all that are equal."""
        return self._columns.setdefault(columns, columns)


def section_of(sections: Mapping[str, Frozen], kind: type[Section]) -> Section | None:
    """The section of a class, if there is one."""
    return next((section for section in sections.values() if isinstance(section, kind)), None)


def take_finished(
    draft: Draft, finished: Finished, reads: Sequence[int], writes: Sequence[int], known: bool
) -> Built | None:
    """The finished dictionary, which has learned by now; None after refusing hook points of other widths."""
    dictionary = finished.content.dictionary
    if known and dictionary.widths != (found := Widths(reads=tuple(reads), writes=tuple(writes))):
        message = f"{finished.name} reads and writes widths {_pair(dictionary.widths)}, and the hook points here have "
        draft.refuse(SAE_FROM, f"{message}{_pair(found)}: name those of the model that it was trained on")
        return None
    return dictionary, Objective(losses=(), unit_norm_decoder=False)


def _pair(widths: Widths) -> str:
    read, written = (" ".join(map(str, side)) for side in (widths.reads, widths.writes))
    return read if read == written else f"{read} -> {written}"


def _read_sae(draft: Draft, given: Mapping[str, Any]) -> Sae:
    architecture = given.get("architecture")
    if architecture is not None and not (isinstance(architecture, str) and architecture in CATALOG):
        hint = suggest(str(architecture), CATALOG)
        message = f"there is no architecture {architecture!r}; there are {', '.join(CATALOG)}{hint}"
        draft.refuse("sae.architecture", message)
        return None, None
    values = with_defaults(given)
    common = {name: value for name, value in values.items() if name in SaeSection.model_fields}
    section = read_section(draft.row, SAE, common, draft.refuse)
    if not isinstance(section, SaeSection):
        return None, None
    columns = {name: value for name, value in values.items() if name not in common and value is not None}
    if values.get("from") is not None:
        return section, None
    return section, read_parts(section, columns, draft.refuse)
