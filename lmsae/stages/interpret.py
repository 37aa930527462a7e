"""features: dictionary + text -> what each latent means: contexts, firing rates, logits, neighbors."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lmsae.artifacts.artifact import Spec
from lmsae.config import canonical_json
from lmsae.dictionary.config import DictionaryConfig
from lmsae.interpretation.config import Shown
from lmsae.lm import ResolvedModel
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import live_parts
from lmsae.stages.effort import HOUR, Effort, Facts, Kind, Outlook
from lmsae.stages.footprint import Footprint, capturing_footprint, describing_footprint, model_bytes, size_of, widest
from lmsae.stages.models import LMConfig, read_config
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Place, Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage


class FeaturesSection(Shown):
    """The columns `features.*`."""

    tokens: int = Field(
        default=1_000_000,
        ge=0,
        lt=2**31,  # a token's place in the text is an int32
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
    token_ids: ResolvedModel | None = Field(default=None, exclude_if=lambda value: value is None)
    """Those beside own activations, if there are any."""


def configs(row: ResolvedRow) -> list[Config]:
    """The features of the row's dictionary; none if the row wants none."""
    if not row.section(FeaturesSection).tokens:
        return []
    config = Config(
        **row.fields(FeaturesSection),
        **row.fields(Reading),
        models=tuple(row.models),
        tokenizer=row.tokenizer,
        dataset=row.text.name if row.text else " ".join(model.source.name for model in row.models),
        places=tuple(row.places.all),
        sites=row.places.sites,
        token_ids=row.token_ids,
    )
    return [config]


SHARED = ("models", "tokenizer", "dataset", "split", "tokens", "batch_contexts", *Reading.model_fields)


def pass_of(spec: Spec) -> str:
    """The values that two specs must share to be made of one stream of activations."""
    config, inputs = spec.config, spec.inputs
    shared = [inputs["tokens"], *(config[name] for name in SHARED), config.get("token_ids")]
    if config["split"] == "train":
        shared.append(inputs_from("activations", inputs))
    elif config["max_norm_factor"] is not None:
        shared += [config["places"], inputs_from("norm", inputs)]
    return canonical_json(shared)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `features.json`, `latents.parquet` and `contexts.parquet` of every job, from one stream of activations."""
    from lmsae.stages.jobs.describing_jobs import describe_jobs

    yield from describe_jobs(jobs, runtime)


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
    """The memory of a pass, and of the models if they run: on held-out text, or where activations are live."""
    config = Config.model_validate(specs[0].config)
    dictionaries = [size_of(_dictionary(spec, outlook)) for spec in specs]
    describing = describing_footprint(tokens=config.tokens, dictionaries=dictionaries)
    if config.split == "train":
        return Footprint([*describing.parts, *live_parts(specs[0], outlook)])
    models = [read_config(model.source) for model in config.models]
    capturing = capturing_footprint(
        model_bytes=sum(model_bytes(read, one.dtype) for read, one in zip(models, config.models, strict=True)),
        batch_tokens=config.batch_contexts * outlook.spec(specs[0].inputs["tokens"]).config["packing"]["context_size"],
        widest=max(map(widest, models)),
        width=sum(_dictionary(specs[0], outlook).widths.reads),
    )
    return Footprint([*describing.parts, *capturing.parts])


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
    on_device=True,
    effort=Effort(_count_tokens, _rate_of_each, _kind, size=_size, memory=_memory, given_seconds=4 * HOUR),
)
