"""A pass of features: the firings of its dictionaries over one stream of activations, and what is told of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.lorsa import Lorsa
from lmsae.interpretation.attention import contexts_of, find_sources
from lmsae.interpretation.context_text import ContextText, Documents
from lmsae.interpretation.describing import Subject, describe, find_top_slots
from lmsae.interpretation.firings import Firings
from lmsae.interpretation.gathering import gather_firings
from lmsae.interpretation.logits import find_way
from lmsae.interpretation.pieces import Sources
from lmsae.interpretation.schema import Location
from lmsae.runtime.progress import ProgressBar, show_progress
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Facts
from lmsae.stages.inputs.live import live_captures
from lmsae.stages.inputs.passages import HeldOutPassages, Passages, StoredPassages, limits_of, require_counted
from lmsae.stages.inputs.token_texts import read_texts
from lmsae.stages.interpret import Config
from lmsae.stages.models import LazyModels, read_config, require_unchanged
from lmsae.stages.sites import Place
from lmsae.stages.stage import Done, Job
from lmsae.text.document_places import SplitDocuments
from lmsae.text.tokens import open_tokens
from lmsae.vectors.naming import VectorPlaces
from lmsae.vectors.sources import is_source


@dataclass
class _Collection:
    """The firings of one job's dictionary, up to its first error."""

    job: Job
    dictionary: Dictionary
    firings: Firings
    error: Exception | None = field(default=None)

    def take(self, activations: Mapping[Place, Tensor], counted: Tensor, first_slot: int) -> None:
        """Take in the activations of a few contexts."""
        if self.error is None:
            try:
                x = self.join(activations)
                gather_firings(self.dictionary, x, counted.to(x.device), first_slot, self.firings)
            except Exception as error:
                self.error = error

    def join(self, activations: Mapping[Place, Tensor]) -> Tensor:
        """The activations that the dictionary reads, side by side, on its device."""
        return join_reads(self.job.config, activations, next(self.dictionary.parameters()).device)


def join_reads(config: Config, activations: Mapping[Place, Tensor], device: torch.device) -> Tensor:
    """The activations that a dictionary reads, side by side, on a device."""
    return torch.cat([activations[config.places[number]] for number in config.sites.reads], dim=-1).to(device)


def describe_jobs(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write the features of every job, from one stream of activations."""
    models = LazyModels(jobs[0].config.models, runtime)
    passages = passages_of(jobs, models)
    ids, texts = read_texts(jobs[0].config, passages.ids)
    with ExitStack() as files:
        collections = []
        for job in jobs:
            try:
                collections.append(_begin(job, runtime, files))
            except Exception as error:
                yield job, error
        if not collections:
            return
        with show_progress("features", unit="token", total=passages.ids.size, runtime=runtime) as progress:
            counted = _collect(passages, collections, progress)
        require_unchanged(models.loaded)
        for collection in collections:
            try:
                text = ContextText(ids, counted, texts, passages.first_context, _documents(collection.job))
                ended = _describe(collection, passages, text, models)
            except Exception as error:
                ended = error
            yield collection.job, {**ended, **progress.facts(len(jobs))} if isinstance(ended, dict) else ended
            collection.firings.close()


def _begin(job: Job, runtime: Runtime, files: ExitStack) -> _Collection:
    dictionary = Dictionary.load(job.inputs["dictionary"].path).to(runtime.torch_device())
    return _Collection(job, dictionary, files.enter_context(Firings(job.out, dictionary.geometry.latents)))


def passages_of(jobs: Sequence[Job], models: LazyModels) -> Passages:
    job, config = jobs[0], jobs[0].config
    tokens = open_tokens(job.inputs["tokens"].path)
    if config.split == "train":
        live = [capture.model for capture in live_captures(job.inputs)]
        sources = {one: models[number] for number, one in enumerate(config.models) if one in live}
        return StoredPassages(tokens, job.inputs, config.places, config, config.tokens, sources)
    places = dict.fromkeys(place for one in jobs for place in one.config.places)
    limits = limits_of(job.inputs, config.places, config)
    return HeldOutPassages(tokens, [*places], limits, config, config.tokens, models.all(), config.batch_contexts)


def _collect(passages: Passages, collections: Sequence[_Collection], progress: ProgressBar) -> np.ndarray:
    """Run every dictionary over all passages; returns the tokens that count. Raises NotEnoughTokens if none does."""
    counted, size = np.zeros(passages.ids.shape, bool), passages.ids.shape[1]
    for passage in passages.read():
        here = passage.counted.cpu().numpy()
        counted[passage.first : passage.first + len(here)] = here
        for collection in collections:
            collection.take(passage.activations, passage.counted, passage.first * size)
        progress.advance(here.size)
    require_counted(int(counted.sum()), counted.size)
    return counted


def _describe(collection: _Collection, passages: Passages, text: ContextText, models: LazyModels) -> Facts | Exception:
    """Write the files of a job."""
    if collection.error is not None:
        return collection.error
    config = collection.job.config
    names = [one.source.name for one in config.models]
    locations = [Location(model=place.model, hook_point=place.hook_point) for place in config.places]
    reads, writes = ([locations[number] for number in side] for side in (config.sites.reads, config.sites.writes))
    way = "features.logits is 0" if config.logits == 0 else "each latent writes along several directions"
    if is_source(config.models[0].source):
        way = "own activations have no logits"
    elif config.logits and collection.dictionary.config.geometry.writes_directions:
        model_configs = [read_config(one.source) for one in config.models]
        widths = collection.dictionary.config.widths.writes
        way = find_way(writes, widths, names, model_configs, models.__getitem__, len(text.texts))
    subject = Subject(collection.dictionary, names, reads, writes, config.dataset, config.split, way)
    sources = _sources(collection, passages, text)
    describe(subject, collection.firings, text, config, collection.job.out, sources=sources)
    return {"tokens_counted": text.tokens}


def _sources(collection: _Collection, passages: Passages, text: ContextText) -> Sources | None:
    """The positions that peaks attend to, where latents attend at all: a second reading, of the contexts with peaks."""
    if not isinstance(collection.dictionary.geometry, Lorsa):
        return None
    slots = find_top_slots(collection.firings, text, collection.job.config)
    wanted = contexts_of(slots, text.context_size)

    def contexts() -> Iterator[tuple[int, Tensor]]:
        for passage in passages.read(wanted):
            x = collection.join(passage.activations)
            yield from ((passage.first + i, x[i]) for i in range(len(x)) if passage.first + i in chosen)

    chosen = set(wanted.tolist())
    return find_sources(collection.dictionary, slots, text.context_size, contexts())


def _documents(job: Job) -> Documents:
    """The documents that the split's tokens come from; of own activations, the files."""
    tokens = job.inputs["tokens"]
    if is_source(source := job.config.models[0].source):
        return VectorPlaces(open_tokens(tokens.path), job.config.split, source)
    has_bos = tokens.spec().config["packing"]["prepend_bos"]
    return SplitDocuments(open_tokens(tokens.path), job.config.split, tokens.path, has_bos=has_bos)
