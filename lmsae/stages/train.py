"""train: activations + init -> a dictionary and its training curves."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmsae.catalog import Objective
from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.runtime import Runtime
from lmsae.stages.activations import LMConfig
from lmsae.stages.resuming import NOTE, discard, resumed_from
from lmsae.stages.sites import Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.training.config import TrainConfig

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.store.batches import ShuffledBatches
    from lmsae.training.batch import Batch
    from lmsae.training.splice import Splice

CONVERSION, CHECKPOINT = "conversion.json", "checkpoint"
KEEPS = frozenset({CHECKPOINT, NOTE})
STREAM = ("epochs", "batch_size", "window_tokens", "seed", "sites", "skip_first_positions", "skip_last_positions")


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
    from lmsae.progress import bar
    from lmsae.stages.reading import stores_for
    from lmsae.training.checkpoints import Checkpoints, Keeper
    from lmsae.training.interruption import interruptible
    from lmsae.training.run import Run
    from lmsae.training.together import train_together
    from lmsae.wandb_log import curves_logger

    first: Config = jobs[0].config
    splice = _splice(jobs, runtime)
    stream = _Stream(jobs[0], with_ids=splice is not None)
    device = runtime.torch_device()
    job_of, checkpoints, resumed = {}, {}, {}
    for job in jobs:
        config: Config = job.config
        config.require_tokens(stream.source.tokens_per_epoch)
        stores_for(config.dictionary, config.sites, job.inputs)
        log = curves_logger(job.reference, config.model_dump(mode="json"), runtime)
        spliced = splice if config.spliced else None
        run = Run(_started(job).to(device), config.objective, config, job.reference, log, spliced)
        job_of[run], checkpoints[run] = job, Checkpoints(job.out / CHECKPOINT, run)
        resumed[run] = resumed_from(job.out, checkpoints[run].restore())
    steps = max(run.config.steps for run in job_of) - min(run.steps_done for run in job_of)
    with (
        interruptible(runtime.time_limit) as interruption,
        bar("train", unit="token", total=steps * first.batch_size, runtime=runtime) as progress,
    ):
        keeper = Keeper(checkpoints, runtime.checkpoint_seconds, interruption)
        for run in train_together(list(job_of), stream, device, progress.advance, keeper.after_step):
            job = job_of[run]
            _converted(run.dictionary, job).save(job.out)
            run.write_curves(job.out / "curves.csv")
            for name in sorted(KEEPS):
                discard(job.out / name)
            facts = {"dictionaries_in_pass": len(jobs), "waited_s": round(stream.source.waited_s, 3)}
            yield job, {**progress.rates(), **facts, **keeper.facts(), "resumed_from_steps": resumed[run]}


def _splice(jobs: Sequence[Job], runtime: Runtime) -> "Splice | None":
    """The language model for those jobs of a pass that splice it; they all write the same activations of it."""
    spliced: Spliced | None = next((job.config.spliced for job in jobs if job.config.spliced), None)
    if spliced is None:
        return None
    from lmsae.training.splice import Splice

    return Splice(spliced.model.load(runtime), spliced.hook_points)


def _started(job: Job) -> "Dictionary":
    """The job's dictionary with the weights and normalisers that init gave it."""
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

    from lmsae.dictionary.conversion import as_jumprelu, cost
    from lmsae.stages.reading import aside

    converted, batch = as_jumprelu(dictionary), aside(dictionary.config, job.config.sites, job.inputs, job.config)
    batch = batch.to(str(next(dictionary.parameters()).device))
    paid = cost(dictionary, converted, batch.x, batch.target, batch.usable)
    (job.out / CONVERSION).write_text(json.dumps(paid.as_metrics(), indent=1) + "\n")
    return converted


class _Stream:
    """The batches of a pass: stored activations in their shuffled order, those read and those written side by side."""

    source: "ShuffledBatches"

    def __init__(self, job: Job, *, with_ids: bool) -> None:
        from lmsae.stages.reading import stores_for
        from lmsae.store.batches import ShuffledBatches
        from lmsae.text.tokens import open_tokens

        config: Config = job.config
        tokens = open_tokens(job.inputs["tokens"].path)
        self._sites = config.sites
        self._usable = tokens.usable("train", slice(None), config.skip_first_positions, config.skip_last_positions)
        self._in_contexts = with_ids or config.dictionary.geometry.grain == "context"
        self._ids = tokens.train[:] if with_ids else None
        self.source = ShuffledBatches(
            stores_for(config.dictionary, config.sites, job.inputs),
            self._usable,
            batch_size=config.batch_size,
            seed=config.seed,
            first=tokens.aside_contexts,
            window_tokens=config.window_tokens,
            whole_contexts=self._in_contexts,
        )

    def batches(self, start_step: int, stop_step: int) -> Iterator["Batch"]:
        """The batches of steps `start_step` to `stop_step`, on the CPU."""
        import torch

        from lmsae.stages.reading import batch_of

        for parts in self.source.batches(start_step, stop_step):
            if not self._in_contexts:
                yield batch_of(parts, self._sites)
                continue
            contexts = parts[-1].numpy()
            ids = None if self._ids is None else torch.from_numpy(self._ids[contexts].astype("int64"))
            yield batch_of(parts, self._sites, torch.from_numpy(self._usable[contexts]), ids)


STAGE = Stage("train", 1, Config, {"activations": "activations", "init": "init", "tokens": "tokenize"}, make, KEEPS)
