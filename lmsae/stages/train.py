"""train: activations + init -> a dictionary and its training curves."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import CHECKPOINT
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import LMConfig
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.inputs.extending import extended, step_to_keep
from lmsae.stages.inputs.live import Live, live_captures
from lmsae.stages.sites import Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.lm.protocol import LanguageModel
    from lmsae.store.batches import ShuffledBatches
    from lmsae.training.batch import Batch
    from lmsae.training.splice import Splice

CONVERSION = "conversion.json"
KEEPS = frozenset({CHECKPOINT, NOTE})
STREAM = ("epochs", "batch_size", "window_tokens", "seed", "sites", *Reading.model_fields)


class Spliced(Frozen):
    """The language model that runs on from a dictionary's reconstruction, and the hook points that it takes."""

    model: LMConfig
    hook_points: tuple[str, ...]


class Config(TrainConfig, Reading):
    dictionary: DictionaryConfig
    objective: Objective
    sites: Sites
    spliced: Spliced | None = None


def stream_of(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What two train specs must share to be trained in one pass over the data."""
    from lmsae.config import canonical_json

    shared = [config[name] for name in STREAM]
    return canonical_json([inputs["tokens"], inputs_from("activations", inputs), reads_contexts(config), shared])


def reads_contexts(config: Mapping[str, Any]) -> bool:
    """Whether a train spec's config is trained on whole contexts, and not on shuffled tokens."""
    geometry = DictionaryConfig.model_validate(config["dictionary"]).geometry
    return geometry.grain == "context" or config["spliced"] is not None


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `dictionary.safetensors`, `dictionary.json` and `curves.csv` of every job, one pass for each stream."""
    passes: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        references = {name: artifact.reference for name, artifact in job.inputs.items()}
        passes[stream_of(job.config.model_dump(mode="json"), references)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from lmsae.runtime.progress import show_progress
    from lmsae.runtime.wandb_log import curves_logger
    from lmsae.stages.inputs.stored import stores_for
    from lmsae.training.checkpoints import Checkpoints, Keeper
    from lmsae.training.interruption import interruptible
    from lmsae.training.run import Run
    from lmsae.training.together import train_together

    first: Config = jobs[0].config
    models = _models(jobs, runtime)
    splice = _splice(jobs, models)
    stream = _Stream(jobs[0], models, with_ids=splice is not None)
    device = runtime.torch_device()
    job_of, checkpoints, extends, resumed = {}, {}, {}, {}
    for job in jobs:
        config: Config = job.config
        config.require_tokens(stream.source.tokens_per_epoch)
        stores_for(config.dictionary, config.sites, job.inputs)
        log = curves_logger(job.reference, config.model_dump(mode="json"), runtime)
        spliced = splice if config.spliced else None
        run = Run(_started(job).to(device), config.objective, config, job.reference, log, spliced)
        keeps = step_to_keep(job) if runtime.keep_training_state else 0
        job_of[run], checkpoints[run] = job, Checkpoints(job.out / CHECKPOINT, run, keeps)
        if not checkpoints[run].restore():
            extends[run] = extended(job, STAGE.version, checkpoints[run])
        resumed[run] = note_resumption(job.out, run.steps_done)
    steps = max(run.config.steps for run in job_of) - min(run.steps_done for run in job_of)
    before = {run: run.steps_done for run in job_of}
    with (
        interruptible(runtime.time_limit) as interruption,
        show_progress("train", unit="token", total=steps * first.batch_size, runtime=runtime) as progress,
    ):
        keeper = Keeper(checkpoints, runtime.checkpoint_seconds, interruption, runtime.checkpoint_steps)
        stream.source.while_waiting = keeper.while_waiting
        for run in train_together(list(job_of), stream, device, progress.advance, keeper.after_step):
            job = job_of[run]
            _converted(run.dictionary, job).save(job.out)
            run.write_curves(job.out / "curves.csv")
            checkpoints[run].finish()
            discard(job.out / NOTE)
            progress.waited_s = stream.source.waited_s
            flops = {one: _flops(job_of[one].config, one.steps_done - before[one], stream) for one in job_of}
            cost = progress.facts(len(jobs), flops[run], sum(flops.values()))
            came_by = {"resumed_from_steps": resumed[run], "extends": extends.get(run) and asdict(extends[run])}
            yield job, {**cost, **keeper.facts(), **came_by}


def _flops(config: Config, steps: int, stream: "_Stream") -> float:
    """What so many steps of a dictionary take."""
    return dictionary_flops(config.dictionary, stream.context_size).step * steps * config.batch_size


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


def _started(job: Job) -> "Dictionary":
    """The job's dictionary with the weights and normalizers that init gave it."""
    from safetensors.torch import load_file

    from lmsae.dictionary.dictionary import Dictionary

    dictionary = Dictionary(job.config.dictionary)
    dictionary.load_state_dict(load_file(job.inputs["init"].path / "weights.safetensors"))
    return dictionary


def _converted(dictionary: "Dictionary", job: Job) -> "Dictionary":
    """The dictionary to save: as jumprelu if the row says so, and then what that costs in `conversion.json`."""
    if not job.config.objective.convert_to_jumprelu:
        return dictionary
    import json

    from lmsae.dictionary.as_jumprelu import as_jumprelu, cost
    from lmsae.stages.inputs.stored import calibration_batch

    converted, batch = (
        as_jumprelu(dictionary),
        calibration_batch(dictionary.config, job.config.sites, job.inputs, job.config),
    )
    batch = batch.to(str(next(dictionary.parameters()).device))
    paid = cost(dictionary, converted, batch.x, batch.target, batch.usable)
    (job.out / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
    return converted


class _Stream:
    """The batches of a pass: activations in their shuffled order, those read and those written side by side."""

    source: "ShuffledBatches"

    def __init__(self, job: Job, models: "Mapping[LMConfig, LanguageModel]", *, with_ids: bool) -> None:
        from lmsae.stages.inputs.stored import stores_for
        from lmsae.stages.inputs.usable import Usable
        from lmsae.store.batches import ShuffledBatches
        from lmsae.store.order import blocks_of
        from lmsae.store.spilled import SpilledArray
        from lmsae.store.stores import Stores
        from lmsae.text.tokens import open_tokens

        config: Config = job.config
        tokens = open_tokens(job.inputs["tokens"].path)
        self.context_size = tokens.context_size
        self._sites = config.sites
        stores, live = stores_for(config.dictionary, config.sites, job.inputs), live_captures(job.inputs)
        usable = Usable(tokens, [store.path for store in stores], config)
        self._usable = SpilledArray(blocks_of(usable), job.out)
        self._in_contexts = with_ids or config.dictionary.geometry.grain == "context"
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


STAGE = Stage("train", 5, Config, {"activations": "activations", "init": "init", "tokens": "tokenize"}, make, KEEPS)
