"""A pass of trainings: the runs of its jobs, their checkpoints, and the models that they need."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from lmsae.artifacts.artifact import CHECKPOINT
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.dictionary.dictionary import Dictionary
from lmsae.runtime.progress import show_progress
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.wandb_log import curves_logger
from lmsae.stages.along import Along, Line, Scorings, tell
from lmsae.stages.along_cost import evaluation_flops
from lmsae.stages.effort import Facts
from lmsae.stages.finishing import finish
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.inputs.extending import Extended, extend_shorter_run, step_to_keep
from lmsae.stages.inputs.live import live_captures
from lmsae.stages.inputs.stored import stores_for
from lmsae.stages.inputs.stream import Stream
from lmsae.stages.models import LMConfig
from lmsae.stages.stage import Done, Job
from lmsae.training.checkpoints import Checkpoints, Keeper
from lmsae.training.curves import describe
from lmsae.training.interruption import Interruption, hear_interruptions
from lmsae.training.run import Run
from lmsae.training.splice import Splice
from lmsae.training.together import BrokenRuns, train_together

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel

CURVES = "curves.csv"


def train_jobs(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Train the dictionaries of all jobs over one stream of batches, and write what each is to make."""
    models = _models(jobs, runtime)
    splice = _splice(jobs, models)
    stream = Stream(jobs[0], models, with_ids=splice is not None)
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

        def after_step(active: Sequence[Run]) -> None:
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
    run: Run
    along: Along
    checkpoints: Checkpoints
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


def _begin(job: Job, stream: Stream, splice: Splice | None, along: Along, runtime: Runtime) -> _Training:
    """The run of a job, where its last checkpoint or a shorter run has brought it."""
    config = job.config
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


def _keeper(trainings: Mapping[Run, _Training], interruption: Interruption, runtime: Runtime) -> Keeper:
    checkpoints = {run: training.checkpoints for run, training in trainings.items()}
    return Keeper(checkpoints, runtime.checkpoint_seconds, interruption, runtime.checkpoint_steps)


def _flops(training: _Training, stream: Stream) -> float:
    """The FLOPs of the steps that a dictionary has done in this pass, and of its evaluations on the way."""
    config, along = training.job.config, training.along
    steps = training.run.steps_done - training.began
    learning = dictionary_flops(config.dictionary, stream.context_size).step * steps * stream.batch_size
    if not along.evaluations:
        return learning
    return learning + along.evaluations * evaluation_flops(config, training.job.inputs["tokens"].spec())


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


def _splice(jobs: Sequence[Job], models: "Mapping[LMConfig, LanguageModel]") -> Splice | None:
    """The language model for those jobs of a pass that splice it; they all write the same activations of it."""
    spliced = next((job.config.spliced for job in jobs if job.config.spliced), None)
    if spliced is None:
        return None
    return Splice(models[spliced.model], spliced.hook_points)


def _load_start(job: Job) -> Dictionary:
    """The job's dictionary with the weights and normalizers that init gave it."""
    dictionary = Dictionary(job.config.dictionary)
    dictionary.load_state_dict(load_file(job.inputs["init"].path / "weights.safetensors"))
    return dictionary
