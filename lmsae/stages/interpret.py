"""features: dictionary + text -> what each latent means: contexts, firing rates, logits, neighbors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from lmsae.artifacts.artifact import Spec
from lmsae.config import canonical_json
from lmsae.dictionary.config import DictionaryConfig
from lmsae.interpretation.config import Shown
from lmsae.lm import ResolvedModel, read_config
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Effort, Facts, Kind, Outlook
from lmsae.stages.footprint import Footprint, describing_footprint, size_of
from lmsae.stages.inputs.live import live_captures
from lmsae.stages.models import LMConfig
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Place, Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interpretation.context_text import ContextText, Documents
    from lmsae.interpretation.firings import Firings
    from lmsae.interpretation.pieces import Sources
    from lmsae.interpretation.texts import TokenTexts
    from lmsae.lm.protocol import LanguageModel
    from lmsae.runtime.progress import ProgressBar
    from lmsae.stages.inputs.passages import Passages


class FeaturesSection(Shown):
    """The columns `features.*`."""

    tokens: int = Field(
        default=1_000_000,
        ge=0,
        description="Largest number of tokens on which latents are looked at, in whole contexts. 0: no features are "
        "made.",
    )
    split: Literal["train", "held_out"] = Field(
        default="train",
        description="Text on which latents are looked at. `train`: the stored activations that the dictionary was "
        "trained on (live ones are captured again), behind the calibration split. `held_out`: the model runs again.",
    )
    batch_contexts: int = Field(
        default=16, gt=0, description="Number of contexts in one forward pass of the model on held-out text."
    )


class Config(FeaturesSection, Reading):
    """The text, the models and the hook points of a dictionary."""

    models: tuple[LMConfig, ...]
    tokenizer: ResolvedModel
    dataset: str
    places: tuple[Place, ...]
    sites: Sites


def configs(row: ResolvedRow) -> list[Config]:
    """The features of the row's dictionary; none if the row wants none."""
    if not row.section(FeaturesSection).tokens:
        return []
    config = Config(
        **row.fields(FeaturesSection),
        **row.fields(Reading),
        models=tuple(row.models),
        tokenizer=row.tokenizer,
        dataset=row.text.name,
        places=tuple(row.places.all),
        sites=row.places.sites,
    )
    return [config]


SHARED = ("models", "tokenizer", "dataset", "split", "tokens", "batch_contexts", *Reading.model_fields)


def pass_of(spec: Spec) -> str:
    """The values that two specs must share to be made of one stream of activations."""
    config, inputs = spec.config, spec.inputs
    shared = [inputs["tokens"], *(config[name] for name in SHARED)]
    if config["split"] == "train":
        shared.append(inputs_from("activations", inputs))
    elif config["max_norm_factor"] is not None:
        shared += [config["places"], inputs_from("norm", inputs)]
    return canonical_json(shared)


@dataclass
class _Collection:
    """The firings of one job's dictionary, up to its first error."""

    job: Job
    dictionary: "Dictionary"
    firings: "Firings"
    error: Exception | None = field(default=None)

    def take(self, activations: "Mapping[Place, Tensor]", counted: "Tensor", first_slot: int) -> None:
        """Take in the activations of a few contexts."""
        from lmsae.interpretation.gathering import gather_firings

        if self.error is None:
            try:
                x = self.join(activations)
                gather_firings(self.dictionary, x, counted.to(x.device), first_slot, self.firings)
            except Exception as error:
                self.error = error

    def join(self, activations: "Mapping[Place, Tensor]") -> "Tensor":
        """The activations that the dictionary reads, side by side, on its device."""
        return join_reads(self.job.config, activations, next(self.dictionary.parameters()).device)


def join_reads(config: Config, activations: "Mapping[Place, Tensor]", device: "torch.device") -> "Tensor":
    """The activations that a dictionary reads, side by side, on a device."""
    import torch

    return torch.cat([activations[config.places[number]] for number in config.sites.reads], dim=-1).to(device)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `features.json`, `latents.parquet` and `contexts.parquet` of every job, from one stream of activations."""
    from lmsae.runtime.progress import show_progress

    models = Models(jobs[0].config.models, runtime)
    texts = texts_of(jobs[0].config)
    passages = passages_of(jobs, models)
    with ExitStack() as files:
        collections = []
        for job in jobs:
            try:
                collections.append(_begin(job, runtime, files))
            except Exception as error:
                yield job, error
        with show_progress("features", unit="token", total=passages.ids.size, runtime=runtime) as progress:
            counted = _collect(passages, collections, progress) if collections else None
        for collection in collections:
            assert counted is not None
            try:
                ended = _describe(collection, passages, counted, texts, models)
            except Exception as error:
                ended = error
            yield collection.job, {**ended, **progress.facts(len(jobs))} if isinstance(ended, dict) else ended
            collection.firings.__exit__()


def _begin(job: Job, runtime: Runtime, files: ExitStack) -> _Collection:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interpretation.firings import Firings

    dictionary = Dictionary.load(job.inputs["dictionary"].path).to(runtime.torch_device())
    return _Collection(job, dictionary, files.enter_context(Firings(job.out, dictionary.geometry.latents)))


def passages_of(jobs: Sequence[Job], models: "Models") -> "Passages":
    from lmsae.stages.inputs.passages import HeldOutPassages, StoredPassages, limits_of
    from lmsae.text.tokens import open_tokens

    job, config = jobs[0], jobs[0].config
    tokens = open_tokens(job.inputs["tokens"].path)
    if config.split == "train":
        live = [capture.model for capture in live_captures(job.inputs)]
        sources = {one: models[number] for number, one in enumerate(config.models) if one in live}
        return StoredPassages(tokens, job.inputs, config.places, config, config.tokens, sources)
    places = dict.fromkeys(place for one in jobs for place in one.config.places)
    limits = limits_of(job.inputs, config.places, config)
    return HeldOutPassages(tokens, [*places], limits, config, config.tokens, models.all(), config.batch_contexts)


def _collect(passages: "Passages", collections: Sequence[_Collection], progress: "ProgressBar") -> np.ndarray:
    """Run every dictionary over all passages; returns the tokens that count. Raises NotEnoughTokens if none does."""
    from lmsae.stages.inputs.passages import require_counted

    counted, size = np.zeros(passages.ids.shape, bool), passages.ids.shape[1]
    for passage in passages.read():
        here = passage.counted.cpu().numpy()
        counted[passage.first : passage.first + len(here)] = here
        for collection in collections:
            collection.take(passage.activations, passage.counted, passage.first * size)
        progress.advance(here.size)
    require_counted(int(counted.sum()), counted.size)
    return counted


def _describe(
    collection: _Collection, passages: "Passages", counted: np.ndarray, texts: "TokenTexts", models: "Models"
) -> Facts | Exception:
    """Write the files of a job."""
    from lmsae.interpretation.context_text import ContextText
    from lmsae.interpretation.describing import Subject, describe
    from lmsae.interpretation.logits import find_way
    from lmsae.interpretation.schema import Location

    if collection.error is not None:
        return collection.error
    config: Config = collection.job.config
    text = ContextText(passages.ids, counted, texts, passages.first_context, _documents(collection.job))
    names = [one.source.name for one in config.models]
    locations = [Location(model=place.model, hook_point=place.hook_point) for place in config.places]
    reads, writes = ([locations[number] for number in side] for side in (config.sites.reads, config.sites.writes))
    way = "features.logits is 0" if config.logits == 0 else "each latent writes along several directions"
    if config.logits and collection.dictionary.config.geometry.writes_directions:
        model_configs = [read_config(one.source) for one in config.models]
        widths = collection.dictionary.config.widths.writes
        way = find_way(writes, widths, names, model_configs, models.__getitem__, len(texts))
    subject = Subject(collection.dictionary, names, reads, writes, config.dataset, config.split, way)
    sources = _sources(collection, passages, text)
    describe(subject, collection.firings, text, config, collection.job.out, sources=sources)
    return {"tokens_counted": text.tokens}


def _sources(collection: _Collection, passages: "Passages", text: "ContextText") -> "Sources | None":
    """The positions that peaks attend to, where latents attend at all: a second reading, of the contexts with peaks."""
    from lmsae.geometry.lorsa import Lorsa
    from lmsae.interpretation.attention import contexts_of, find_sources
    from lmsae.interpretation.describing import find_top_slots

    if not isinstance(collection.dictionary.geometry, Lorsa):
        return None
    slots = find_top_slots(collection.firings, text, collection.job.config)
    wanted = contexts_of(slots, text.context_size)

    def contexts() -> "Iterator[tuple[int, Tensor]]":
        for passage in passages.read(wanted):
            x = collection.join(passage.activations)
            yield from ((passage.first + i, x[i]) for i in range(len(x)) if passage.first + i in chosen)

    chosen = set(wanted.tolist())
    return find_sources(collection.dictionary, slots, text.context_size, contexts())


def texts_of(config: Config) -> "TokenTexts":
    """The texts of the tokenizer's tokens, or numbers for a model without one."""
    from lmsae.interpretation.texts import TokenTexts
    from lmsae.lm import load_tokenizer
    from lmsae.lm.resolving import NoTokenizer

    try:
        return TokenTexts.of_tokenizer(load_tokenizer(config.tokenizer))
    except NoTokenizer:
        return TokenTexts.of_numbers(read_config(config.tokenizer)["vocab_size"])


def _documents(job: Job) -> "Documents":
    """The documents that the split's tokens come from."""
    from lmsae.text.document_places import SplitDocuments
    from lmsae.text.tokens import open_tokens

    tokens = job.inputs["tokens"]
    has_bos = tokens.spec().config["packing"]["prepend_bos"]
    return SplitDocuments(open_tokens(tokens.path), job.config.split, tokens.path, has_bos=has_bos)


class Models:
    """The models of a pass, each loaded when it is first asked for."""

    def __init__(self, configs: Sequence[LMConfig], runtime: Runtime) -> None:
        self._configs, self._runtime = tuple(configs), runtime
        self._loaded: dict[int, LanguageModel] = {}

    def __getitem__(self, number: int) -> "LanguageModel":
        if number not in self._loaded:
            self._loaded[number] = self._configs[number].load(self._runtime)
        return self._loaded[number]

    def all(self) -> "list[LanguageModel]":
        """All of them, by number."""
        return [self[number] for number in range(len(self._configs))]


def _count_tokens(spec: Spec, outlook: Outlook) -> float:
    del outlook
    return spec.config["tokens"]


def _rate_of_each(facts: Facts) -> float | None:
    """Every dictionary of a pass reads all of its tokens."""
    return facts["tokens_per_second"] * facts["in_pass"] if facts.get("tokens_per_second") else None


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    dictionary = _dictionary(spec, outlook)
    models = tuple(model["source"]["name"] for model in spec.config["models"])
    return spec.config["split"], models, dictionary.geometry.kind, dictionary.d_sae, dictionary.act_fn.kind


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    del outlook
    return f"at most {format_count(sum(spec.config['tokens'] for spec in specs))} tokens"


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint:
    """The memory of a pass, without that of models, where they run."""
    dictionaries = [size_of(_dictionary(spec, outlook)) for spec in specs]
    return describing_footprint(tokens=specs[0].config["tokens"], dictionaries=dictionaries)


def _dictionary(spec: Spec, outlook: Outlook) -> DictionaryConfig:
    return DictionaryConfig.model_validate(outlook.spec(spec.inputs["dictionary"]).config["dictionary"])


STAGE = Stage(
    name="features",
    version=1,
    help="dictionary + text -> what each latent means",
    config=Config,
    inputs={"dictionary": "train", "activations": "activations", "norm": "norm", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"features": FeaturesSection},
    shares=pass_of,
    fills_memory=True,
    is_wanted=True,
    effort=Effort(_count_tokens, _rate_of_each, _kind, size=_size, memory=_memory),
)
