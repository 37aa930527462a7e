"""train: activations + norm + init -> a dictionary and its training curves."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lmsae.catalog import Objective
from lmsae.dictionary.config import DictionaryConfig
from lmsae.runtime import Runtime
from lmsae.stages.stage import Done, Job, Stage
from lmsae.training.config import TrainConfig

STREAM = ("epochs", "batch_size", "window_tokens", "seed")


class Config(TrainConfig):
    dictionary: DictionaryConfig
    objective: Objective
    normalize_activations: bool


def stream_of(config: dict[str, Any], inputs: dict[str, str]) -> tuple:
    """What two train specs must share to be trained in one pass over the data."""
    return (inputs["activations"], inputs["tokens"], *(config[name] for name in STREAM))


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `dictionary.safetensors`, `dictionary.json` and `curves.csv` of every job, one pass for each stream."""
    passes: dict[tuple, list[Job]] = defaultdict(list)
    for job in jobs:
        references = {name: artifact.reference for name, artifact in job.inputs.items()}
        passes[stream_of(dict(job.config), references)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from safetensors.torch import load_file

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.progress import bar
    from lmsae.stages.reading import scale_of, store_for
    from lmsae.store.batches import ShuffledBatches
    from lmsae.text.tokens import open_tokens
    from lmsae.training.run import Run
    from lmsae.training.together import train_together
    from lmsae.wandb_log import curves_logger

    first: Config = jobs[0].config
    tokens = open_tokens(jobs[0].inputs["tokens"].path)
    batches = ShuffledBatches(
        [store_for(first.dictionary, jobs[0].inputs["activations"])],
        tokens.usable("train"),
        batch_size=first.batch_size,
        seed=first.seed,
        first=tokens.aside_contexts,
        window_tokens=first.window_tokens,
    )
    device = runtime.torch_device()
    job_of = {}
    for job in jobs:
        config: Config = job.config
        config.require_tokens(batches.tokens_per_epoch)
        store_for(config.dictionary, job.inputs["activations"])
        scale = scale_of(job.inputs["norm"], config.dictionary.d_in) if config.normalize_activations else 1.0
        dictionary = Dictionary(config.dictionary)
        dictionary.load_state_dict(load_file(job.inputs["init"].path / "weights.safetensors"))
        dictionary.set_scales(scale, scale)
        log = curves_logger(job.reference, config.model_dump(mode="json"), runtime)
        job_of[Run(dictionary.to(device), config.objective, config, job.reference, log)] = job
    total = max(job.config.steps for job in jobs) * first.batch_size
    with bar("train", unit="token", total=total, runtime=runtime) as progress:
        for run in train_together(list(job_of), batches, device, progress.advance):
            job = job_of[run]
            run.dictionary.save(job.out)
            run.write_curves(job.out / "curves.csv")
            yield job, {**progress.rates(), "dictionaries_in_pass": len(jobs), "waited_s": round(batches.waited_s, 3)}


STAGE = Stage(
    "train",
    1,
    Config,
    {"activations": "activations", "norm": "norm", "init": "init", "tokens": "tokenize"},
    make,
)
