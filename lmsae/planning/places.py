"""The subject of a row: the models or files that activations are of, and the places in them, read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lmsae.config import Frozen
from lmsae.geometry.config import GEOMETRIES
from lmsae.lm.resolving import ResolvedModel
from lmsae.planning.dictionaries import SaeSection, choose_hook_points
from lmsae.planning.draft import Draft
from lmsae.stages.models import LMConfig
from lmsae.stages.row import InFiles
from lmsae.stages.sites import Place, Places
from lmsae.text.dataset import ResolvedDataset, ResolvedMixture

Text = ResolvedDataset | ResolvedMixture
# Stands in for all widths where a hook point is at fault itself: as wide as models are, so that no k is beyond its
# multiples, and none of those (expansion_factor is 2^16 at most) is beyond MOST_LATENTS.
_UNKNOWN_WIDTH = 1 << 14


@dataclass(frozen=True)
class Subject:
    """The subject of a row's activations: models, their text and tokenizer, and the places in them with their widths;
    of files what they hold, and sections with what remains of them."""

    models: Sequence[LMConfig] = ()
    text: Text | None = None
    tokenizer: ResolvedModel | None = None
    places: Places | None = None
    widths: Sequence[int] = ()
    in_files: InFiles | None = None
    sections: Mapping[str, Frozen] = field(default_factory=dict)


def find_places(draft: Draft, sae: SaeSection | None, models: int) -> Places | None:
    """The hook points that the row's dictionary reads and writes, of every model."""
    names = choose_hook_points(sae, draft.refuse) if sae is not None and models else None
    if sae is None or names is None:
        return None
    reads, writes = names
    kind = sae.geometry or "sae"
    if models > 1 and (reads != writes or GEOMETRIES[kind].one_each):
        message = f"a {kind} reads one model; only a crosscoder shares its latents between several"
        draft.refuse("model.others", message)
        return None
    of_every_model = [
        tuple(Place(model=model, hook_point=name) for model in range(models) for name in side) for side in names
    ]
    return Places(*of_every_model)


def widths_of_sides(places: Places | None, widths: Sequence[int]) -> tuple[list[int], list[int]]:
    """The widths of the hook points read, and of those written."""
    if places is None:
        return [_UNKNOWN_WIDTH], [_UNKNOWN_WIDTH]
    known = widths if all(widths) else [_UNKNOWN_WIDTH] * len(widths)
    return [known[n] for n in places.sites.reads], [known[n] for n in places.sites.writes]
