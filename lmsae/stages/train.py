"""train: activations + init -> a dictionary and its training curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import CHECKPOINT, Spec
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.config import Frozen, canonical_json
from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import GEOMETRIES
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import estimate_contexts
from lmsae.stages.effort import Effort, Facts, Kind, Outlook, fact
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.footprint import CALIBRATED_AT_ONCE, Footprint, size_of, training_footprint
from lmsae.stages.inputs.extending import LENGTH, Extended, extend_shorter_run, step_to_keep
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
    from lmsae.training.checkpoints import Checkpoints
    from lmsae.training.run import Run
    from lmsae.training.splice import Splice

CONVERSION = "conversion.json"
STREAM = ("epochs", "batch_size", "window_tokens", "seed", "sites", *Reading.model_fields)


class Spliced(Frozen):
    """The language model that runs on from a dictionary's reconstruction, and the hook points that it takes."""

    model: LMConfig
    hook_points: tuple[str, ...]


class Config(Learning, Reading):
    sites: Sites
    spliced: Spliced | None = None


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
    """Write `dictionary.safetensors`, `dictionary.json` and `curves.csv` of every job, over one stream of batches."""
    from lmsae.runtime.progress import show_progress
    from lmsae.training.checkpoints import Keeper
    from lmsae.training.curves import describe
    from lmsae.training.interruption import hear_interruptions
    from lmsae.training.together import BrokenRuns, train_together

    models = _models(jobs, runtime)
    splice = _splice(jobs, models)
    stream = _Stream(jobs[0], models, with_ids=splice is not None)
    trainings: dict[Run, _Training] = {}
    for job in jobs:
        try:
            training = _begin(job, stream, splice, runtime)
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
        checkpoints = {run: training.checkpoints for run, training in trainings.items()}
        keeper = Keeper(checkpoints, runtime.checkpoint_seconds, interruption, runtime.checkpoint_steps)
        stream.source.while_waiting = keeper.while_waiting
        try:
            for run in train_together(runs, stream, device, progress.advance, keeper.after_step):
                progress.waited_s = stream.source.waited_s
                flops = {one: _flops(trainings[one], stream) for one in runs}
                cost = {**progress.facts(len(jobs), flops[run], sum(flops.values())), **keeper.facts()}
                yield trainings[run].job, trainings[run].finish(cost)
        except BrokenRuns as broken:
            for run, error in broken.errors.items():
                yield trainings[run].job, error


@dataclass(frozen=True, slots=True)
class _Training:
    """A job of a pass in training: its run, its checkpoints, the steps that were done when it began, where it was
    resumed, and the shorter run that it goes on from."""

    job: Job
    run: "Run"
    checkpoints: "Checkpoints"
    began: int
    resumed: list[int]
    extends: Extended | None

    def finish(self, cost: Facts) -> Facts | Exception:
        """Write what the job is to make; returns the facts for its provenance, or the error that it met."""
        try:
            _calibrate(self.run.dictionary, self.job)
            _convert(self.run.dictionary, self.job).save(self.job.out)
            self.run.write_curves(self.job.out / "curves.csv")
            self.checkpoints.finish()
            discard(self.job.out / NOTE)
        except Exception as error:
            return error
        extends = asdict(self.extends) if self.extends else None
        return {**cost, "resumed_from_steps": self.resumed, "extends": extends}


def _begin(job: Job, stream: "_Stream", splice: "Splice | None", runtime: Runtime) -> _Training:
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
    run = Run(start, config.objective, config, job.reference, log, splice if config.spliced else None)
    keeps = step_to_keep(job) if runtime.keep_training_state else 0
    checkpoints, extends = Checkpoints(job.out / CHECKPOINT, run, keeps, job.require_claim), None
    if not checkpoints.restore():
        extends = extend_shorter_run(job, checkpoints)
    return _Training(job, run, checkpoints, run.steps_done, note_resumption(job.out, run.steps_done), extends)


def _flops(training: _Training, stream: "_Stream") -> float:
    """The FLOPs of the steps that a dictionary has done in this pass."""
    steps = training.run.steps_done - training.began
    return dictionary_flops(training.job.config.dictionary, stream.context_size).step * steps * stream.batch_size


def _require_tokens(spec: Spec, outlook: Outlook) -> None:
    """Raise NotEnoughTokens if the text has been tokenized and holds less than training wants."""
    counts = outlook.token_counts(outlook.spec(spec.inputs["tokens"]))
    if counts is not None:
        config = Config.model_validate(spec.config)
        on_contexts = trains_on_contexts(config.dictionary.geometry, config.spliced is not None)
        config.require_tokens(tokens_per_epoch(counts, config, on_contexts=on_contexts))


def _models(jobs: Sequence[Job], runtime: Runtime) -> "dict[LMConfig, LanguageModel]":
    """The language models that a pass runs, each loaded once: those spliced, and those that activations come from."""
    spliced = [job.config.spliced.model for job in jobs if job.config.spliced]
    live = [capture.model for capture in live_captures(jobs[0].inputs)]
    return {model: model.load(runtime) for model in dict.fromkeys(spliced + live)}


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


def _calibrate(dictionary: "Dictionary", job: Job) -> None:
    """Set a threshold that training has estimated by the weights that are saved, on calibration tokens."""
    from lmsae.sparsity.selection import LearnsThreshold
    from lmsae.stages.inputs.stored import calibration_parts

    if not isinstance(dictionary.sparsity, LearnsThreshold):
        return
    config: Config = job.config
    at_once = max(1, CALIBRATED_AT_ONCE // dictionary.geometry.latents)
    tokens, batches = calibration_parts(dictionary.config, config.sites, job.inputs, config, at_once)
    device = str(next(dictionary.parameters()).device)
    dictionary.calibrate_threshold(tokens, ((batch.x, batch.usable) for batch in (one.to(device) for one in batches)))


def _convert(dictionary: "Dictionary", job: Job) -> "Dictionary":
    """The dictionary to save: as jumprelu if the row says so, and then what that costs in `conversion.json`."""
    if not job.config.objective.convert_to_jumprelu:
        return dictionary
    import json

    from lmsae.dictionary.as_jumprelu import convert_to_jumprelu, measure_cost
    from lmsae.stages.inputs.stored import calibration_batch

    converted, batch = (
        convert_to_jumprelu(dictionary),
        calibration_batch(dictionary.config, job.config.sites, job.inputs, job.config),
    )
    batch = batch.to(str(next(dictionary.parameters()).device))
    paid = measure_cost(dictionary, converted, batch.x, batch.target, batch.usable)
    (job.out / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
    return converted


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
    dictionary = DictionaryConfig.model_validate(spec.config["dictionary"])
    context_size = outlook.spec(spec.inputs["tokens"]).config["packing"]["context_size"]
    batch = spec.config["batch_size"]
    return dictionary_flops(dictionary, context_size).step * (spec.config["tokens"] // batch) * batch


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    dictionary, stored = spec.config["dictionary"], inputs_from("activations", spec.inputs)
    return (
        outlook.spec(stored[0]).config["source"],
        spec.config["spliced"] is None,
        dictionary["geometry"]["kind"],
        dictionary["act_fn"]["kind"],
        spec.config["precision"],
        dictionary["d_sae"],
        tuple(dictionary["widths"]["reads"]),
    )


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    del outlook
    return f"{format_count(sum(spec.config['tokens'] for spec in specs))} tokens"


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
    return training_footprint(
        window_tokens=min(config.window_tokens, contexts * context_size),
        token_bytes=sum(layout.token_bytes for layout in layouts),
        batch_size=config.batch_size // config.gradient_accumulation,
        width=sum(layout.width for layout in layouts),
        dictionaries=[size_of(dictionary) for dictionary in dictionaries],
        dataset_tokens=contexts * context_size,
        calibration_tokens=packing["calibration_tokens"],
    )


STAGE = Stage(
    name="train",
    version=6,
    help="activations + starting weights -> a dictionary",
    config=Config,
    inputs={"activations": "activations", "init": "init", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"train": TrainConfig},
    keeps=frozenset({CHECKPOINT, NOTE}),
    relatives_differ_in=LENGTH,
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
