"""A text by its name: pinned to what it is at this moment, and read later as the same text."""

from collections.abc import Callable, Iterator
from itertools import islice, pairwise

from pydantic import ValidationError

from lmsae.config import canonical_json
from lmsae.errors import ChangedSource, SourceError, suggest
from lmsae.text.dataset import DatasetConfig, ResolvedDataset, ResolvedMixture, WeightedDataset
from lmsae.text.documents import AnyDocument
from lmsae.text.hub_dataset import HubDataset
from lmsae.text.kind import DigestLookup, TextKind
from lmsae.text.local import LocalText
from lmsae.text.mixing import Part, is_mixture, parts_of
from lmsae.text.othello import OthelloGames
from lmsae.text.stdlib import StandardLibrary

BUILTIN: dict[str, TextKind] = {kind.name: kind for kind in (StandardLibrary(), OthelloGames())}
KINDS: tuple[TextKind, ...] = (*BUILTIN.values(), LocalText(), HubDataset())
"""All kinds of text. The first that recognizes a name reads the text."""


def compute_now(key: str, compute: Callable[[], str]) -> str:
    """The digest look-up that remembers nothing."""
    return compute()


def kind_of(name: str) -> TextKind:
    """The kind of text that a `dataset.name` names. Raises SourceError for a name that no kind recognizes."""
    for kind in KINDS:
        if kind.recognizes(name):
            return kind
    raise SourceError(
        f"dataset.name: there is no text {name!r} built in; there are {' and '.join(BUILTIN)}{suggest(name, BUILTIN)}"
    )


def holds_ids(dataset: DatasetConfig) -> bool:
    """True if the documents of a text are token ids already, so that it needs no tokenizer."""
    return dataset.tokens_column is not None or kind_of(dataset.name).holds_ids


def resolve(config: DatasetConfig, look_up: DigestLookup = compute_now) -> ResolvedDataset | ResolvedMixture:
    """Pin the text that the user named to a digest: of its documents (built in), its files (local) or its commit (hub).

    `look_up(key, compute)` may return an earlier result for the same key. The key is made of the path, size and
    modification time of every file that the digest depends on. Raises SourceError when a text cannot be found.
    """
    if not is_mixture(config.name):
        return _resolve_one(config, look_up)
    parts = parts_of(config.name)
    resolved = [(part.weight, _resolve_one(_config_of(part, config), look_up)) for part in parts]
    if len(resolved) == 1:
        return resolved[0][1]
    resolved.sort(key=lambda part: (part[1].name, canonical_json(part[1])))
    for (_, one), (_, next_one) in pairwise(resolved):
        if one == next_one:
            raise SourceError(f"dataset.name: {one.name!r} stands twice in the mixture. Add its weights up.")
    sources = tuple(WeightedDataset(weight=weight, dataset=dataset) for weight, dataset in resolved)
    name = " ".join(f"{weight:.4g}*{dataset.name}" for weight, dataset in resolved)
    return ResolvedMixture(name=name, sources=sources)


def documents(dataset: ResolvedDataset) -> Iterator[AnyDocument]:
    """Yield the documents of a resolved text in the order of the text, without blank ones.

    The name of a file's document is the path within `dataset.name`; that of a table's row is the path and the row's
    number; that of a row of a split is its number. Raises SourceError for a missing column, for values that are not
    text, when there is no text, and when the text has changed since it was planned.
    """
    kind = kind_of(dataset.name)
    before = _require_unchanged(dataset, kind)
    empty = True
    for document in islice(kind.documents(dataset), dataset.documents):
        if not document.is_blank:
            empty = False
            yield document
    if before and _states(dataset, kind, lambda key, compute: dataset.digest)[0] != before:
        raise SourceError(
            f"dataset.name {dataset.name!r}: the text changed while it was read. Plan again: `lmsae plan`."
        )
    if empty:
        column = f"column {dataset.values_column!r} of split {dataset.split!r}"
        raise SourceError(f"dataset.name {dataset.name!r}: no text in it ({column}): every document is empty.")


def _config_of(part: Part, shared: DatasetConfig) -> DatasetConfig:
    """The config of one text of a mixture: its own columns over the `dataset.*` columns that hold for all texts."""
    known = [name for name in DatasetConfig.model_fields if name != "name"]
    for name in part.fields:
        if name not in known:
            raise SourceError(
                f"dataset.name: {part.name}?{name}: there is no such column of `dataset`"
                f"{suggest(name, known) or '; there are ' + ', '.join(known)}"
            )
    own = {name: value or None for name, value in part.fields.items()}
    try:
        return DatasetConfig.model_validate({**shared.model_dump(), "name": part.name, **own})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{part.name}?{'.'.join(map(str, first['loc']))}={first['input']}" if first["loc"] else part.name
        raise SourceError(f"dataset.name: {where}: {first['msg']}") from None


def _resolve_one(config: DatasetConfig, look_up: DigestLookup) -> ResolvedDataset:
    kind = kind_of(config.name)
    _require_columns(config, kind)
    return ResolvedDataset(**config.model_dump(), digest=kind.digest(config, look_up))


def _require_columns(config: DatasetConfig, kind: TextKind) -> None:
    """Raise SourceError where the user set a column that means nothing for this kind of text."""
    known, fields = kind.columns(config), DatasetConfig.model_fields
    given = [name for name in fields if name not in known and getattr(config, name) != fields[name].default]
    if given:
        raise SourceError(
            f"dataset.name {config.name!r}: such a text has no {', '.join(f'dataset.{name}' for name in given)}; "
            "leave that empty."
        )


def _require_unchanged(dataset: ResolvedDataset, kind: TextKind) -> list[str]:
    """Raise SourceError where the text changed since the plan: its artifact must not bear the key of the old text.

    Returns the states of the text's files, as `_states` does.
    """
    if not kind.can_change:
        return []
    states, found = _states(dataset, kind, compute_now)
    if found != dataset.digest:
        raise ChangedSource(
            f"dataset.name {dataset.name!r}: the text is not the one that was planned (its digest is {found[:16]}, "
            f"planned was {dataset.digest[:16]}). Plan again: `lmsae plan`, or run the workflow again."
        )
    return states


def _states(dataset: ResolvedDataset, kind: TextKind, look_up: DigestLookup) -> tuple[list[str], str]:
    """The keys under which the text's digest is looked up, which change whenever its files do; and that digest."""
    keys = []

    def note(key: str, compute: Callable[[], str]) -> str:
        keys.append(key)
        return look_up(key, compute)

    digest = kind.digest(dataset, note)
    return keys, digest
