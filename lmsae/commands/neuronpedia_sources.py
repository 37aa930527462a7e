"""Sources: the features of a finished dictionary as Neuronpedia is to show them, layer by layer."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import RUN
from lmsae.commands.subjects import Subject
from lmsae.errors import ExportError
from lmsae.interop.neuronpedia import ALIGNED, CREATOR, MODEL_ID, SLUG, Aligned, Model, Source, name_model, write_source
from lmsae.interpretation.opening import Features, open_features
from lmsae.lm.hook_points import hook_points, layer_of

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """The words of a person on the sources of a run; None is what the dictionary's own names make."""

    slug: str | None
    model_id: str | None
    release: str
    title: str
    creator: str
    urls: Sequence[str]


def sources_of(subject: Subject, labels: Labels) -> list[Source]:
    """The sources that a dictionary is: one, or of a clt one a layer. Raises ExportError if it can be none, with a way
    out."""
    artifact = subject.measured("features")
    info = open_features(artifact.path).info
    if info.signed:
        raise ExportError(
            f"{subject.name}: Neuronpedia shows codes above 0 alone, and those of {info.act_fn} have signs. The page "
            "of its latents shows both: results/rows/ROW/page."
        )
    layers = [layer_of(place.hook_point) for place in info.reads]
    if len({*layers}) > 1 and info.geometry != "clt":
        raise ExportError(
            f"{subject.name}: a source of Neuronpedia belongs to one layer, and this {info.geometry} reads layers "
            f"{', '.join(map(str, layers))}. The page of its latents shows all: results/rows/ROW/page."
        )
    made = json.loads((artifact.path / RUN).read_text())["finished"]
    return [
        Source(
            model=_model(subject, labels),
            layer=layers[number],
            slug=_slug(subject, labels),
            release=labels.release,
            title=labels.title,
            creator=labels.creator,
            creator_id=CREATOR,
            created=made,
            urls=labels.urls,
            hook_name=info.reads[number].hook_point,
            dataset=info.dataset,
            contexts=info.contexts,
            context_size=info.context_size,
            tokens=info.tokens,
            quantiles=info.quantiles,
        )
        for number in range(len(layers) if info.geometry == "clt" else 1)
    ]


def write(subject: Subject, sources: Sequence[Source], folder: Path) -> None:
    """Write the files of a dictionary's sources into the folder of a bundle."""
    described, rows = open_features(subject.measured("features").path), _decoder_rows(subject)
    d_sae = described.info.d_sae
    for number, source in enumerate(sources):
        first = number * d_sae
        write_source(source, folder, _groups(described, rows, first, first + d_sae), first)


def _groups(
    described: Features, rows: "Tensor | None", first: int, last: int
) -> "Iterator[tuple[pa.Table, pa.Table, Aligned]]":
    for latents, contexts in described.groups(first, last):
        numbers = latents["latent"].to_pylist()
        yield latents, contexts, {} if rows is None else _align(rows[numbers[0] : numbers[-1] + 1])


def _align(rows: "Tensor") -> Aligned:
    """The largest entries of decoder rows (latents, d), with their shares of the sum of all sizes."""
    values, dimensions = rows.topk(min(ALIGNED, rows.shape[1]), dim=1)
    shares = values.abs() / rows.abs().sum(1, keepdim=True).clamp(min=1e-30)
    return {
        "neuron_alignment_indices": dimensions.tolist(),
        "neuron_alignment_values": values.tolist(),
        "neuron_alignment_l1": shares.tolist(),
    }


def _decoder_rows(subject: Subject) -> "Tensor | None":
    """The decoder rows in raw activations; None where a latent has no single one, or its scale is each token's own."""
    from torch import Tensor

    from lmsae.dictionary.dictionary import Dictionary

    try:
        geometry = Dictionary.load(subject.made.path).fold_normalizers().geometry
    except ExportError:
        return None
    rows = getattr(geometry, "W_dec", None)
    return rows if isinstance(rows, Tensor) and len(subject.config.widths.writes) == 1 else None


def _model(subject: Subject, labels: Labels) -> Model:
    name, config = subject.origin.model.name, subject.origin.config
    widths = hook_points(config)
    of_kind = {kind: width for point, width in widths.items() for kind in (point.partition(".")[2].partition(".")[2],)}
    found = labels.model_id or name_model(name)
    if not MODEL_ID.fullmatch(found):
        raise ExportError(f"--model-id is {found!r}; wanted: small letters, digits, - and _, as in gpt2-small.")
    return Model(
        id=found,
        name=name,
        layers=subject.origin.layers,
        d_model=of_kind["hook_resid_post"],
        d_mlp=of_kind.get("mlp.hook_post", 0),
    )


def _slug(subject: Subject, labels: Labels) -> str:
    found = labels.slug or re.sub(r"[^a-z0-9.]+", "-", subject.label.lower()).strip("-.")
    if not SLUG.fullmatch(found):
        raise ExportError(f"--slug is {found!r}; wanted: small letters, digits, - and ., as in res-16k.")
    return found
