"""A row that reads own activations: its files take the place of model, tokenizer and text.

activations.files       acts/clip.zarr               one file, whose name is that of its hook point: clip
                        in=acts/in out=acts/out#mlp  several, each with a name for sae.hook_point_in and _out
activations.token_ids   acts/ids                     one id for each vector; several files have the same
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from lmsae.errors import LmsaeError, NotEnoughTokens, SourceError, describe_wanted, suggest
from lmsae.lm.resolving import ResolvedModel
from lmsae.planning.dictionaries import HOOK_POINT, HOOK_POINTS, SaeSection, choose_hook_points
from lmsae.planning.draft import Draft
from lmsae.planning.sheet import SAE, Cell, Row
from lmsae.stages.activations import ActivationsSection
from lmsae.stages.row import InFiles
from lmsae.stages.sites import Place, Places
from lmsae.stages.tokenize import TokenizeSection
from lmsae.vectors.headers import TOKEN_IDS, VECTORS, Contents, Header
from lmsae.vectors.shares import count_shares

FILES, IDS = "activations.files", "activations.token_ids"
Find = Callable[[str, Contents], tuple[ResolvedModel, Header]]
"""Pins a path to its bytes, and reads its header. Raises SourceError."""


class FromFiles(NamedTuple):
    """The files in the place of model, tokenizer and text: the sources by number, where they are read and written,
    their widths, the packing that remains, and what the files hold."""

    sources: Sequence[ResolvedModel]
    places: Places
    widths: Sequence[int]
    tokenize: TokenizeSection
    in_files: InFiles


def reads_files(section: object) -> bool:
    """True if the section `activations` says that activations come from files."""
    return isinstance(section, ActivationsSection) and section.source == "file"


def name_hook_point(row: Row, section: ActivationsSection) -> Row:
    """The row with its only file as its hook point, unless it names one."""
    names, asked = list(named_files(section)), [f"{SAE}.{column}" for column in HOOK_POINTS]
    if len(names) != 1 or any((cell := row.cells.get(name)) and cell.value is not None for name in asked):
        return row
    return Row(row.name, row.file, {**row.cells, f"{SAE}.{HOOK_POINT}": Cell(names[0], row.file, None)})


def named_files(section: ActivationsSection) -> dict[str, str]:
    """The path of each file by the name of its hook point."""
    found = {}
    for entry in section.files or ():
        name, equals, path = entry.partition("=")
        if not equals:
            name, path = Path(entry.partition("#")[0]).stem, entry
        found[name] = path
    return found


def find_files(
    draft: Draft, sae: SaeSection | None, activations: ActivationsSection, tokenize: TokenizeSection | None, find: Find
) -> FromFiles | None:
    """The files that a row reads and writes, or None after refusing it."""
    names = choose_hook_points(sae, draft.refuse) if sae else None
    files = named_files(activations)
    if len(files) < len(activations.files or ()):
        draft.refuse(FILES, "names two files alike: write another name before each, as in `in=acts/0 out=acts/1`")
        return None
    if names is None or tokenize is None:
        return None
    wanted = list(dict.fromkeys((*names[0], *names[1])))
    if unknown := [name for name in wanted if name not in files]:
        column = next(one for one in HOOK_POINTS if unknown[0] in (draft.row.section(SAE).get(one) or ""))
        there = f"; there are {', '.join(files)}" if files else "; activations.files is empty"
        message = f"{FILES} has none called {unknown[0]!r}{suggest(unknown[0], files) or there}"
        draft.refuse(f"{SAE}.{column}" if files else FILES, message)
        return None
    try:
        found = {name: find(files[name], VECTORS) for name in wanted}
        _require_alike(found)
        header = found[wanted[0]][1]
        packing = _packing(tokenize, header, keeps_tokenizer=activations.token_ids is not None)
        contexts = header.vectors // packing.context_size
        count_shares(contexts, packing)
    except NotEnoughTokens as error:
        draft.refuse("tokenize.calibration_tokens", str(error), depends_on_row=True)
        return None
    except ValidationError as error:
        draft.refuse("tokenize.context_size", f"{files[wanted[0]]}: {describe_wanted(error.errors()[0])}")
        return None
    except LmsaeError as error:
        draft.refuse(FILES, str(error))
        return None
    try:
        token_ids = _find_ids(activations.token_ids, wanted[0], header, find)
    except LmsaeError as error:
        draft.refuse(IDS, str(error))
        return None
    number = {name: place for place, name in enumerate(wanted)}
    reads, writes = (tuple(Place(model=number[name], hook_point=name) for name in side) for side in names)
    places = Places(reads, writes)
    widths = [found[place.hook_point][1].width for place in places.all]
    sources = [found[name][0] for name in wanted]
    in_files = InFiles(contexts, header.positions is not None, token_ids)
    return FromFiles(sources, places, widths, packing, in_files)


def _require_alike(found: Mapping[str, tuple[ResolvedModel, Header]]) -> None:
    """Raise SourceError unless all files hold as many vectors, in contexts of the same size."""
    (first, one), *others = ((name, header) for name, (_, header) in found.items())
    for name, other in others:
        if (other.vectors, other.positions) != (one.vectors, one.positions):
            raise SourceError(
                f"{name} holds {_describe(other)}, but {first} {_describe(one)}: vector by vector they must be of the "
                "same inputs"
            )


def _find_ids(path: str | None, name: str, header: Header, find: Find) -> ResolvedModel | None:
    """The token ids of the vectors of a file called so; None if no path is given. Raises SourceError."""
    if path is None:
        return None
    source, ids = find(path, TOKEN_IDS)
    if (ids.vectors, ids.positions) != (header.vectors, header.positions):
        raise SourceError(
            f"{path} holds {_describe(ids, 'token ids')}, but {name} {_describe(header)}: each vector must have one "
            "token id, in an array of the same shape without the width"
        )
    return source


def _describe(header: Header, what: str = "vectors") -> str:
    contexts = f" in contexts of {header.positions:,}" if header.positions else ""
    return f"{header.vectors:,} {what}{contexts}"


def _packing(tokenize: TokenizeSection, header: Header, *, keeps_tokenizer: bool) -> TokenizeSection:
    """The columns `tokenize.*` that mean something for vectors; the others at values without an effect. Raises
    ValidationError if the shares hold no whole context."""
    kept = ["held_out_fraction", "tokens", "held_out_tokens", "calibration_tokens", "seed"]
    kept += ["tokenizer"] if keeps_tokenizer else []
    size = header.positions or tokenize.context_size
    values = {name: getattr(tokenize, name) for name in kept}
    return TokenizeSection(context_size=size, prepend_bos=False, mask_special=False, **values)
