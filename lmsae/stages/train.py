"""train: activations + init -> a dictionary and its training curves."""

from collections.abc import Sequence

from lmsae.artifacts.artifact import CHECKPOINT, Spec
from lmsae.artifacts.resuming import NOTE
from lmsae.config import Frozen, canonical_json
from lmsae.geometry.config import GEOMETRIES
from lmsae.runtime.limits import LIBRARIES
from lmsae.runtime.numbers import format_bytes, format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import estimate_contexts, live_parts
from lmsae.stages.along import KEPT, HeldOut, held_out_of
from lmsae.stages.along_cost import RUNS_BEFORE, evaluation_flops, evaluation_part
from lmsae.stages.effort import HOUR, LEAST_FLOPS, Effort, Kind, Outlook, fact
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.footprint import FLOAT_BYTES, Footprint, size_of, training_footprint
from lmsae.stages.inputs.extending import LENGTH, ON_THE_WAY, take_over_twin
from lmsae.stages.models import LMConfig
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.stages.tokenize import tokens_per_epoch
from lmsae.store.layout import Layout
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Learning, trains_on_contexts

STREAM = ("epochs", "batch_size", "window_tokens", "seed", "sites", *Reading.model_fields)


class Spliced(Frozen):
    """The language model that runs on from a dictionary's reconstruction, and the hook points that it takes."""

    model: LMConfig
    hook_points: tuple[str, ...]


class Config(Learning, Reading):
    sites: Sites
    spliced: Spliced | None = None
    held_out: HeldOut | None = None


def configs(row: ResolvedRow) -> list[Config]:
    """The training of the row's dictionary, unless that is finished."""
    if not row.is_trained:
        return []
    spliced = None
    if row.objective.needs_model:
        spliced = Spliced(model=row.models[0], hook_points=tuple(place.hook_point for place in row.places.writes))
    config = Config(
        **row.fields(TrainConfig),
        **row.fields(Reading),
        dictionary=row.dictionary,
        sites=row.places.sites,
        objective=row.objective,
        spliced=spliced,
        held_out=held_out_of(row) if row.section(TrainConfig).eval_steps else None,
    )
    return [config]


def stream_of(spec: Spec) -> str:
    """The values that two specs must share to be trained in one pass over the data."""
    config, inputs = spec.config, spec.inputs
    shared = [config[name] for name in STREAM]
    if "shards" in config:
        shared.append(spec.key)  # its processes have no other dictionary
    geometry = GEOMETRIES[config["dictionary"]["geometry"]["kind"]]
    on_contexts = trains_on_contexts(geometry, config["spliced"] is not None)
    return canonical_json([inputs["tokens"], inputs_from("activations", inputs), on_contexts, shared])


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `dictionary.safetensors`, `dictionary.json` and `curves.csv` of every job, over one stream of batches, and
    what it wants of the way there.

    A job whose dictionary a finished relative has, with all that is wanted of the way, takes it over.
    """
    to_train = []
    for job in jobs:
        try:
            taken = take_over_twin(job)
        except Exception as error:
            yield job, error
            continue
        if taken is None:
            to_train.append(job)
        else:
            yield job, taken
    if to_train:
        if to_train[0].config.shards > 1:
            from lmsae.stages.jobs.sharded_jobs import train_sharded_jobs as train
        else:
            from lmsae.stages.jobs.train_jobs import train_jobs as train

        yield from train(to_train, runtime)


def _require_tokens(spec: Spec, outlook: Outlook) -> None:
    """Raise NotEnoughTokens if the text has been tokenized and holds less than training wants."""
    counts = outlook.token_counts(outlook.spec(spec.inputs["tokens"]))
    if counts is not None:
        config = spec.config_as(Config)
        on_contexts = trains_on_contexts(config.dictionary.geometry, config.spliced is not None)
        config.require_tokens(tokens_per_epoch(counts, config, on_contexts=on_contexts))


def _work(spec: Spec, outlook: Outlook) -> float | None:
    config, tokens = spec.config_as(Config), outlook.spec(spec.inputs["tokens"])
    learning = dictionary_flops(config.dictionary, tokens.config["packing"]["context_size"]).step
    evaluations = len(config.evaluated_steps) + RUNS_BEFORE if config.held_out else 0
    return learning * config.steps * config.batch_size + evaluations * evaluation_flops(config, tokens)


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    dictionary, stored = spec.config["dictionary"], inputs_from("activations", spec.inputs)
    return (
        outlook.spec(stored[0]).config["source"],
        spec.config["spliced"] is None,
        spec.config["held_out"] is None,
        dictionary["geometry"]["kind"],
        dictionary["act_fn"]["kind"],
        spec.config["precision"],
        dictionary["d_sae"],
        tuple(dictionary["widths"]["reads"]),
        spec.config.get("shards", 1),
    )


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    """The tokens to train on, and what the dictionaries on the way take on the disk."""
    del outlook
    keeping = [spec.config_as(Config) for spec in specs if spec.config["keep_steps"]]
    kept = sum(FLOAT_BYTES * size_of(one.dictionary).parameters * len(one.kept_steps) for one in keeping)
    tokens = f"{format_count(sum(spec.config['tokens'] for spec in specs))} tokens"
    return f"{tokens}, {format_bytes(kept)} of dictionaries on the way" if kept else tokens


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint | None:
    """The memory of a pass; None while nobody knows how much text there is."""
    config = specs[0].config_as(Config)
    captures = [outlook.spec(stored) for stored in inputs_from("activations", specs[0].inputs)]
    contexts = estimate_contexts(captures[0], outlook)
    if contexts is None:
        return None
    packing = outlook.spec(specs[0].inputs["tokens"]).config["packing"]
    context_size = packing["context_size"]
    layouts = [Layout(contexts, context_size, one.config["width"], one.config["dtype"]) for one in captures]
    whole = [
        size_of(one.dictionary, soft_frozen=one.decoder_min_cosine is not None)
        for one in (spec.config_as(Config) for spec in specs)
    ]
    sizes = [size.divided(config.shards) for size in whole]
    training = training_footprint(
        window_tokens=min(config.window_tokens, contexts * context_size),
        token_bytes=sum(layout.token_bytes for layout in layouts),
        batch_size=config.batch_size // config.gradient_accumulation,
        width=sum(layout.width for layout in layouts),
        dictionaries=sizes,
        dataset_tokens=contexts * context_size,
        calibration_tokens=packing["calibration_tokens"],
    )
    if config.shards > 1:
        return training.sharded(config.shards, whole[0], LIBRARIES["resident"])
    texts = [outlook.spec(spec.inputs["tokens"]) for spec in specs]
    evaluations = map(evaluation_part, (spec.config_as(Config) for spec in specs), texts)
    largest = max(evaluations, key=lambda part: part.nbytes)
    beside = [part for part in (largest, *live_parts(specs[0], outlook)) if part.nbytes]
    return Footprint([*training.parts, *beside]) if beside else training


STAGE = Stage(
    name="train",
    version=6,
    help="activations + starting weights -> a dictionary",
    config=Config,
    inputs={"activations": "activations", "init": "init", "norm": "norm", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"train": TrainConfig},
    keeps=frozenset({CHECKPOINT, NOTE, KEPT}),
    relatives_differ_in=LENGTH | ON_THE_WAY,
    shares=stream_of,
    fills_memory=True,
    require=_require_tokens,
    on_device=True,
    effort=Effort(
        _work,
        fact("flops_per_second"),
        _kind,
        size=_size,
        memory=_memory,
        lessen="lower runtime.together, train.batch_size (or raise train.gradient_accumulation), train.window_tokens "
        "or sae.d_sae",
        given_seconds=24 * HOUR,
        given_bytes=64 * 10**9,
        least_rate=LEAST_FLOPS,
    ),
)
