"""eval: dictionary + held-out tokens + model -> metrics and densities."""

from collections import defaultdict
from collections.abc import Sequence

from pydantic import Field

from lmsae.config import Frozen
from lmsae.runtime import Runtime
from lmsae.stages.activations import LMConfig
from lmsae.stages.stage import Done, Job, Stage


class EvalSection(Frozen):
    """The columns `eval.*`."""

    tokens: int = Field(
        default=100_000,
        gt=0,
        description="At most so many held-out tokens are evaluated on, in whole contexts, and at least one.",
    )
    batch_contexts: int = Field(default=16, gt=0, description="Contexts in one forward pass of the model.")


class Config(EvalSection):
    model: LMConfig
    hook_point: str


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `metrics.json` and `latents.safetensors`; the model's clean and ablated passes are shared."""
    passes: dict[tuple, list[Job]] = defaultdict(list)
    for job in jobs:
        config: Config = job.config
        passes[(config.model, config.tokens, config.batch_contexts, job.inputs["tokens"].reference)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.evaluation.scoring import Subject, score
    from lmsae.progress import bar
    from lmsae.stages.reading import mean_of
    from lmsae.text.tokens import open_tokens

    first: Config = jobs[0].config
    tokens = open_tokens(jobs[0].inputs["tokens"].path)
    model = first.model.load(runtime)
    subjects = [
        Subject(
            dictionary=Dictionary.load(job.inputs["dictionary"].path).to(model.device),
            hook_point=job.config.hook_point,
            mean=mean_of(job.inputs["norm"]).to(model.device),
        )
        for job in jobs
    ]
    contexts = max(1, min(len(tokens.held_out), first.tokens // tokens.held_out.shape[1]))
    total = contexts * tokens.held_out.shape[1]
    with bar("eval", unit="token", total=total, runtime=runtime) as progress:
        scores = score(model, subjects, tokens, contexts, first.batch_contexts, progress.advance)
    for job, result in zip(jobs, scores, strict=True):
        result.save(job.out)
        yield job, progress.rates()


STAGE = Stage("eval", 1, Config, {"dictionary": "train", "norm": "norm", "tokens": "tokenize"}, make)
