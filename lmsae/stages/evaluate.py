"""eval: dictionary + held-out tokens + model -> metrics and densities."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lmsae.artifacts.artifact import Spec
from lmsae.config import Frozen, canonical_json
from lmsae.errors import NotEnoughTokens
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Effort, Facts, Kind, Outlook
from lmsae.stages.models import LMConfig
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Place, Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.stages.train import CONVERSION


class EvalSection(Frozen):
    """The columns `eval.*`."""

    tokens: int = Field(
        default=100_000,
        gt=0,
        description="Largest number of held-out tokens to evaluate on, in whole contexts, at least one.",
    )
    batch_contexts: int = Field(default=16, gt=0, description="Number of contexts in one forward pass of the model.")


class Config(EvalSection, Reading):
    models: tuple[LMConfig, ...]
    places: tuple[Place, ...]
    sites: Sites


def configs(row: ResolvedRow) -> list[Config]:
    """The evaluation of the row's dictionary."""
    config = Config(
        **row.fields(EvalSection),
        **row.fields(Reading),
        models=tuple(row.models),
        places=tuple(row.places.all),
        sites=row.places.sites,
    )
    return [config]


SHARED = ("models", *EvalSection.model_fields, *Reading.model_fields)


def pass_of(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What two eval specs must share to share the models' passes: which tokens they count above all."""
    shared = [inputs["tokens"], *(config[name] for name in SHARED)]
    if config["max_norm_factor"] is not None:
        shared += [config["places"], inputs_from("norm", inputs)]
    return canonical_json(shared)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `metrics.json` and `latents.safetensors`; the models' clean and ablated passes are shared."""
    passes: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        references = {name: artifact.reference for name, artifact in job.inputs.items()}
        passes[pass_of(job.config.model_dump(mode="json"), references)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.evaluation.scoring import Scored, Subject, score
    from lmsae.runtime.progress import show_progress
    from lmsae.stages.inputs.stored import moments_of
    from lmsae.text.tokens import open_tokens

    first: Config = jobs[0].config
    tokens = open_tokens(jobs[0].inputs["tokens"].path)
    models = [model.load(runtime) for model in first.models]
    subjects, max_norms = [], {}
    for job in jobs:
        places = [(place.model, place.hook_point) for place in job.config.places]
        moments = [moments_of(norm) for norm in inputs_from("norm", job.inputs)]
        means = [moment["mean"].float().to(models[0].device) for moment in moments]
        if job.config.max_norm_factor is not None:
            max_norms = {place: float(moment["max_norm"]) for place, moment in zip(places, moments, strict=True)}
        subject = Subject(
            dictionary=Dictionary.load(job.inputs["dictionary"].path).to(models[0].device),
            reads=[places[number] for number in job.config.sites.reads],
            writes=[places[number] for number in job.config.sites.writes],
            means=[means[number] for number in job.config.sites.writes],
        )
        subjects.append(subject)
    contexts = max(1, min(len(tokens.held_out), first.tokens // tokens.held_out.shape[1]))
    usable = tokens.usable("held_out", slice(0, contexts), first.skip_first_positions, first.skip_last_positions)
    if not usable[:, :-1].any():
        raise NotEnoughTokens(
            f"of {usable.size:,} held-out tokens none counts that has a next token: raise eval.tokens or "
            "tokenize.held_out_tokens, lower activations.skip_*_positions, or see what tokenize masks"
        )
    total = contexts * tokens.held_out.shape[1]
    with show_progress("eval", unit="token", total=total, runtime=runtime) as progress:
        text = Scored(tokens.held_out, usable, max_norms)
        scores = score(models, subjects, text, first.batch_contexts, progress.advance)
    for job, result in zip(jobs, scores, strict=True):
        result.metrics.update(_conversion(job.inputs["dictionary"].path))
        result.save(job.out)
        yield job, progress.facts(len(jobs))


def _conversion(dictionary: Path) -> dict[str, float]:
    """What conversion to jumprelu has cost a dictionary, if it was converted."""
    path = dictionary / CONVERSION
    return json.loads(path.read_text()) if path.exists() else {}


def _tokens_scored(spec: Spec, outlook: Outlook) -> float:
    del outlook
    return spec.config["tokens"]


def _tokens_of_each(facts: Facts) -> float | None:
    """Every dictionary of a pass is scored on all of its tokens."""
    return facts["tokens_per_second"] * facts["in_pass"] if "tokens_per_second" in facts else None


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    dictionary = outlook.spec(spec.inputs["dictionary"]).config["dictionary"]
    models = tuple(model["source"]["name"] for model in spec.config["models"])
    return models, dictionary["geometry"]["kind"], dictionary["d_sae"], dictionary["act_fn"]["kind"]


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    del outlook
    return f"{format_count(sum(spec.config['tokens'] for spec in specs))} tokens"


STAGE = Stage(
    name="eval",
    version=1,
    help="dictionary + held-out text + model -> metrics",
    config=Config,
    inputs={"dictionary": "train", "norm": "norm", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"eval": EvalSection},
    shares=lambda spec: pass_of(spec.config, spec.inputs),
    fills_memory=True,
    effort=Effort(_tokens_scored, _tokens_of_each, _kind, size=_size),
)
