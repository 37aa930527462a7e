"""train: activations + init -> a dictionary and its training curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import CHECKPOINT, Spec
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.config import Frozen, canonical_json
from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import GEOMETRIES
from lmsae.runtime.numbers import format_bytes, format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import estimate_contexts
from lmsae.stages.along import KEPT, Along, HeldOut, Line, Scorings, held_out_of, tell
from lmsae.stages.along_cost import RUNS_BEFORE, evaluation_flops, evaluation_part
from lmsae.stages.effort import Effort, Facts, Kind, Outlook, fact
from lmsae.stages.finishing import finish
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.footprint import FLOAT_BYTES, Footprint, size_of, training_footprint
from lmsae.stages.inputs.extending import LENGTH, ON_THE_WAY, Extended, extend_shorter_run, step_to_keep, take_over_twin
from lmsae.stages.inputs.live import Live, live_captures
from lmsae.stages.models import LMConfig
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.stages.tokenize import tokens_per_epoch
from lmsae.store.layout import Layout
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Learning, trains_on_contexts

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.lm.protocol import LanguageModel
    from lmsae.store.batches import ShuffledBatches
    from lmsae.training.batch import Batch
    from lmsae.training.checkpoints import Checkpoints, Keeper
    from lmsae.training.interruption import Interruption
    from lmsae.training.run import Run
    from lmsae.training.splice import Splice

CURVES = "curves.csv"
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
        yield from _train(to_train, runtime)


def _train(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from lmsae.runtime.progress import show_progress
    from lmsae.training.curves import describe
    from lmsae.training.interruption import hear_interruptions
    from lmsae.training.together import BrokenRuns, train_together

    models = _models(jobs, runtime)
    splice = _splice(jobs, models)
    stream = _Stream(jobs[0], models, with_ids=splice is not None)
    scorings, heard = Scorings(models), list[Line]()
    trainings: dict[Run, _Training] = {}
    for job in jobs:
        try:
            training = _begin(job, stream, splice, Along(job, scorings, heard.append), runtime)
        except Exception as error:
            yield job, error
        else:
            trainings[training.run] = training
    if not trainings:
        return
    runs, device = list(trainings), runtime.torch_device()
    tokens = (max(run.config.steps for run in runs) - min(run.steps_done for run in runs)) * stream.batch_size
    with (
        hear_interruptions(runtime.time_limit) as interruption,
        show_progress(
            "train",
            unit="token",
            total=tokens,
            runtime=runtime,
            describe=lambda: describe([run.curves[-1] for run in runs if run.curves]),
        ) as progress,
    ):
        keeper = _keeper(trainings, interruption, runtime)
        stream.source.while_waiting = keeper.while_waiting

        def after_step(active: "Sequence[Run]") -> None:
            progress.say(tell(heard))
            heard.clear()
            keeper.after_step(active)

        try:
            for run in train_together(runs, stream, device, progress.advance, after_step):
                progress.waited_s = stream.source.waited_s
                flops = {one: _flops(trainings[one], stream) for one in runs}
                cost = {**progress.facts(len(jobs), flops[run], sum(flops.values())), **keeper.facts()}
                yield trainings[run].job, trainings[run].finish(cost)
        except BrokenRuns as broken:
            for run, error in broken.errors.items():
                yield trainings[run].job, error
        progress.say(tell(heard))


@dataclass(frozen=True, slots=True)
class _Training:
    """A job of a pass in training: its run, what is found along the way, its checkpoints, the steps that were done when
    it began, where it was resumed, and the shorter run that it goes on from."""

    job: Job
    run: "Run"
    along: Along
    checkpoints: "Checkpoints"
    began: int
    resumed: list[int]
    extends: Extended | None

    def finish(self, cost: Facts) -> Facts | Exception:
        """Write what the job is to make; returns the facts for its provenance, or the error that it met."""
        try:
            dictionary = finish(self.run.dictionary, self.job)
            dictionary.save(self.job.out)
            self.along.end(self.run, dictionary.eval())
            self.run.write_curves(self.job.out / CURVES)
            self.checkpoints.finish()
            discard(self.job.out / NOTE)
        except Exception as error:
            return error
        extends = asdict(self.extends) if self.extends else None
        facts = {**cost, "resumed_from_steps": self.resumed, "extends": extends}
        return facts | {"evaluations": self.along.evaluations, "along_s": round(self.along.seconds, 3)}


def _begin(job: Job, stream: "_Stream", splice: "Splice | None", along: Along, runtime: Runtime) -> _Training:
    """The run of a job, where its last checkpoint or a shorter run has brought it."""
    from lmsae.runtime.wandb_log import curves_logger
    from lmsae.stages.inputs.stored import stores_for
    from lmsae.training.checkpoints import Checkpoints
    from lmsae.training.run import Run

    config: Config = job.config
    config.require_tokens(stream.source.tokens_per_epoch)
    stores_for(config.dictionary, config.sites, job.inputs)
    log = curves_logger(job.reference, config.model_dump(mode="json"), runtime)
    start = _load_start(job).to(runtime.torch_device())
    run = Run(start, config.objective, config, job.reference, log, splice if config.spliced else None, along)
    keeps = step_to_keep(job) if runtime.keep_training_state else 0
    checkpoints, extends = Checkpoints(job.out / CHECKPOINT, run, keeps, job.require_claim), None
    if not checkpoints.restore():
        extends = extend_shorter_run(job, checkpoints)
    along.drop_leftovers()
    return _Training(job, run, along, checkpoints, run.steps_done, note_resumption(job.out, run.steps_done), extends)


def _keeper(trainings: "Mapping[Run, _Training]", interruption: "Interruption", runtime: Runtime) -> "Keeper":
    from lmsae.training.checkpoints import Keeper

    checkpoints = {run: training.checkpoints for run, training in trainings.items()}
    return Keeper(checkpoints, runtime.checkpoint_seconds, interruption, runtime.checkpoint_steps)


def _flops(training: _Training, stream: "_Stream") -> float:
    """The FLOPs of the steps that a dictionary has done in this pass, and of its evaluations on the way."""
    config, along = training.job.config, training.along
    steps = training.run.steps_done - training.began
    learning = dictionary_flops(config.dictionary, stream.context_size).step * steps * stream.batch_size
    if not along.evaluations:
        return learning
    return learning + along.evaluations * evaluation_flops(config, training.job.inputs["tokens"].spec())


def _require_tokens(spec: Spec, outlook: Outlook) -> None:
    """Raise NotEnoughTokens if the text has been tokenized and holds less than training wants."""
    counts = outlook.token_counts(outlook.spec(spec.inputs["tokens"]))
    if counts is not None:
        config = Config.model_validate(spec.config)
        on_contexts = trains_on_contexts(config.dictionary.geometry, config.spliced is not None)
        config.require_tokens(tokens_per_epoch(counts, config, on_contexts=on_contexts))


def _models(jobs: Sequence[Job], runtime: Runtime) -> "dict[LMConfig, LanguageModel]":
    """The language models that a pass runs, each loaded once: those spliced, those that read held-out
    text, and those that activations come from."""
    spliced = [job.config.spliced.model for job in jobs if job.config.spliced]
    held_out = [model for job in jobs if job.config.held_out for model in job.config.held_out.models]
    live = live_captures(jobs[0].inputs)
    whole = {model: model.load(runtime) for model in dict.fromkeys(spliced + held_out)}
    only_read = dict.fromkeys(capture.model for capture in live if capture.model not in whole)
    read = {model: [capture.hook_point for capture in live if capture.model == model] for model in only_read}
    return whole | {model: model.load(runtime, up_to=names) for model, names in read.items()}


def _splice(jobs: Sequence[Job], models: "Mapping[LMConfig, LanguageModel]") -> "Splice | None":
    """The language model for those jobs of a pass that splice it; they all write the same activations of it."""
    spliced: Spliced | None = next((job.config.spliced for job in jobs if job.config.spliced), None)
    if spliced is None:
        return None
    from lmsae.training.splice import Splice

    return Splice(models[spliced.model], spliced.hook_points)


def _load_start(job: Job) -> "Dictionary":
    """The job's dictionary with the weights and normalizers that init gave it."""
    from safetensors.torch import load_file

    from lmsae.dictionary.dictionary import Dictionary

    dictionary = Dictionary(job.config.dictionary)
    dictionary.load_state_dict(load_file(job.inputs["init"].path / "weights.safetensors"))
    return dictionary


class _Stream:
    """The batches of a pass: activations in their shuffled order, those read and those written side by side."""

    source: "ShuffledBatches"

    def __init__(self, job: Job, models: "Mapping[LMConfig, LanguageModel]", *, with_ids: bool) -> None:
        from lmsae.stages.inputs.stored import open_stores
        from lmsae.stages.inputs.usable import Usable
        from lmsae.store.batches import ShuffledBatches
        from lmsae.store.order import blocks_of
        from lmsae.store.spilled import SpilledArray
        from lmsae.store.stores import Stores
        from lmsae.text.tokens import open_tokens

        config: Config = job.config
        tokens = open_tokens(job.inputs["tokens"].path)
        self.context_size, self.batch_size = tokens.context_size, config.batch_size
        self._sites = config.sites
        stores, live = open_stores(job.inputs), live_captures(job.inputs)
        usable = Usable(tokens, [store.path for store in stores], config)
        self._usable = SpilledArray(blocks_of(usable), job.out)
        self._in_contexts = trains_on_contexts(config.dictionary.geometry, with_ids)
        ids = SpilledArray(blocks_of(tokens.train), job.out) if with_ids or live else None
        self._ids = ids if with_ids else None
        self.source = ShuffledBatches(
            Live(live, stores, ids, models) if live and ids else Stores(stores),
            self._usable,
            batch_size=config.batch_size,
            seed=config.seed,
            first=tokens.calibration_contexts,
            window_tokens=config.window_tokens,
            whole_contexts=self._in_contexts,
        )

    def batches(self, start_step: int, stop_step: int) -> Iterator["Batch"]:
        """The batches of steps `start_step` to `stop_step`, on the CPU."""
        import torch

        from lmsae.stages.inputs.stored import batch_of

        for parts in self.source.batches(start_step, stop_step):
            if not self._in_contexts:
                yield batch_of(parts, self._sites)
                continue
            contexts = parts[-1].numpy()
            ids = None if self._ids is None else torch.from_numpy(self._ids[contexts].astype("int64"))
            yield batch_of(parts, self._sites, torch.from_numpy(self._usable[contexts]), ids)


def _work(spec: Spec, outlook: Outlook) -> float | None:
    config, tokens = Config.model_validate(spec.config), outlook.spec(spec.inputs["tokens"])
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
    )


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    """The tokens to train on, and what the dictionaries on the way take on the disk."""
    del outlook
    configs = [Config.model_validate(spec.config) for spec in specs]
    kept = sum(FLOAT_BYTES * size_of(one.dictionary).parameters * len(one.kept_steps) for one in configs)
    tokens = f"{format_count(sum(config.tokens for config in configs))} tokens"
    return f"{tokens}, {format_bytes(kept)} of dictionaries on the way" if kept else tokens


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint | None:
    """The memory of a pass; None while nobody knows how much text there is."""
    config = Config.model_validate(specs[0].config)
    captures = [outlook.spec(stored) for stored in inputs_from("activations", specs[0].inputs)]
    contexts = estimate_contexts(captures[0], outlook)
    if contexts is None:
        return None
    packing = outlook.spec(specs[0].inputs["tokens"]).config["packing"]
    context_size = packing["context_size"]
    layouts = [Layout(contexts, context_size, one.config["width"], one.config["dtype"]) for one in captures]
    dictionaries = [DictionaryConfig.model_validate(spec.config["dictionary"]) for spec in specs]
    training = training_footprint(
        window_tokens=min(config.window_tokens, contexts * context_size),
        token_bytes=sum(layout.token_bytes for layout in layouts),
        batch_size=config.batch_size // config.gradient_accumulation,
        width=sum(layout.width for layout in layouts),
        dictionaries=[size_of(dictionary) for dictionary in dictionaries],
        dataset_tokens=contexts * context_size,
        calibration_tokens=packing["calibration_tokens"],
    )
    texts = [outlook.spec(spec.inputs["tokens"]) for spec in specs]
    evaluations = map(evaluation_part, map(Config.model_validate, (spec.config for spec in specs)), texts)
    largest = max(evaluations, key=lambda part: part.nbytes)
    return Footprint([*training.parts, largest]) if largest.nbytes else training


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
    effort=Effort(
        _work,
        fact("flops_per_second"),
        _kind,
        size=_size,
        memory=_memory,
        lessen="lower runtime.together, train.batch_size (or raise train.gradient_accumulation), train.window_tokens "
        "or sae.d_sae",
    ),
)
