"""eval: dictionary + held-out tokens + model -> metrics and densities."""

import json
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from lmsae.artifacts.artifact import Artifact, Spec
from lmsae.config import canonical_json
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ArtifactError
from lmsae.lm.resolving import ResolvedModel, features_of
from lmsae.metrics.definitions import HISTOGRAM_ENDS, PROBES, current_versions
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import HOUR, Effort, Facts, Kind, Outlook
from lmsae.stages.finishing import CONVERSION
from lmsae.stages.footprint import Footprint, model_bytes, scoring_footprint, size_of
from lmsae.stages.inputs.held_out import EvalSection, hook_up, read_held_out, require_current
from lmsae.stages.inputs.probed import PROBING, add_probes, can_be_probed
from lmsae.stages.models import LMConfig, read_config, require_unchanged
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Place, Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage

if TYPE_CHECKING:
    from lmsae.evaluation.hooked import HookedDictionary
    from lmsae.evaluation.scores import Score
    from lmsae.evaluation.scoring import HeldOutText

Unigram = Callable[[], float]
"""The unigram loss of a pass's text."""


class Config(EvalSection, Reading):
    """The text, the models, the hook points of a dictionary, and the version of every metric group to measure."""

    models: tuple[LMConfig, ...]
    places: tuple[Place, ...]
    sites: Sites
    groups: dict[str, int] = Field(default_factory=current_versions)
    token_ids: ResolvedModel | None = Field(default=None, exclude_if=lambda value: value is None)
    """Those beside own activations, if there are any."""


def configs(row: ResolvedRow) -> list[Config]:
    """The evaluation of the row's dictionary. It is probed if data sets are named that it can be probed on."""
    section = row.fields(EvalSection)
    if not can_be_probed(row.dictionary.geometry):
        section = {name: value for name, value in section.items() if name not in PROBING}
    probed = {PROBES.name: PROBES.version} if section.get("probes") else {}
    config = Config(
        **section,
        **row.fields(Reading),
        models=tuple(row.models),
        places=tuple(row.places.all),
        sites=row.places.sites,
        groups=current_versions(without_model=row.text is None) | probed,
        token_ids=row.token_ids,
    )
    return [config]


COUNTED_TOKENS = 10_000_000
"""The most tokens of the training text whose ids are counted."""

SHARED = ("models", *(name for name in EvalSection.model_fields if name not in PROBING), *Reading.model_fields)


def pass_of(spec: Spec) -> str:
    """The values that two specs must share to share the models' passes: above all, the tokens that count."""
    config, inputs = spec.config, spec.inputs
    shared = [inputs["tokens"], *(config[name] for name in SHARED), config.get("token_ids")]
    if config["max_norm_factor"] is not None:
        shared += [config["places"], inputs_from("norm", inputs)]
    return canonical_json(shared)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """A job, the score of those metric groups that a relative has at the same version, the reference of that relative
    by group, and the groups that are still to be measured."""

    job: Job
    score: "Score"
    taken_over: Mapping[str, str]
    missing: frozenset[str]

    def finish(self, measured: "Score | Exception", cost: Facts) -> Facts | Exception:
        """Write the whole score; returns the facts on its cost and where it came from, or the error that was met."""
        if isinstance(measured, Exception):
            return measured
        try:
            (self.score | measured).save(self.job.out)
        except Exception as error:
            return error
        return {**cost, "measured": sorted(self.missing), "taken_over": dict(self.taken_over)}


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `metrics.json`, `standard_errors.json`, `breakdown.json` and `latents.safetensors`; the models' clean and
    ablated passes are shared.

    Metric groups that a finished relative has at the same version are taken over from it, and the models are loaded
    only where a group is missing that needs them.
    """
    for job, ended in _make(jobs, runtime):
        if not isinstance(ended, Exception):
            _log(job, runtime)
        yield job, ended


def _log(job: Job, runtime: Runtime) -> None:
    """Send the metrics to the page that the dictionary has at Weights & Biases, if it has one."""
    from lmsae.runtime.wandb_log import Counts, log_evaluation

    if runtime.wandb.mode != "off":
        metrics = json.loads((job.out / "metrics.json").read_text())
        metrics["log10_density"] = Counts(metrics.pop("density_histogram"), *HISTOGRAM_ENDS)
        dictionary = job.inputs["dictionary"]
        config = dictionary.spec().config
        steps = config["tokens"] // config["batch_size"] if "batch_size" in config else None
        log_evaluation(dictionary.reference, metrics, steps, runtime)


def _make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    from lmsae.evaluation.measures import ON_TEXT
    from lmsae.evaluation.scoring import score_without_text

    unigram = cache(lambda: _unigram(jobs[0]))
    on_text = []
    for job in jobs:
        try:
            evaluation = _begin(job)
            if _on_text(evaluation, {*ON_TEXT, PROBES.name}):
                on_text.append(evaluation)
                continue
            ended = evaluation.finish(score_without_text(_hook(evaluation, runtime.torch_device(), unigram)), {})
        except Exception as error:
            ended = error
        yield job, ended
    if on_text:
        yield from _one_pass(on_text, runtime, unigram)


def _begin(job: Job) -> _Evaluation:
    """Take over from a job's finished relatives what they have of its metric groups."""
    from lmsae.evaluation.scores import Score

    require_current(job.config.groups, job.out)
    score, taken_over = Score(), {}
    for relative in job.relatives:
        there = relative.spec().config["groups"] if relative.is_finished else {}
        same = {name for name, version in job.config.groups.items() if there.get(name) == version}
        if not _probes_alike(job, relative):
            same -= {PROBES.name}
        if not (new := same - taken_over.keys()):
            continue
        try:
            score |= Score.load(relative.require_intact().path).select(new)
        except ArtifactError as error:
            print(f"{job.reference}: nothing is taken over from {relative.reference}: {error}", file=sys.stderr)
        else:
            taken_over |= dict.fromkeys(sorted(new), relative.reference)
    return _Evaluation(job, score, taken_over, frozenset(job.config.groups.keys() - taken_over.keys()))


def _probes_alike(job: Job, relative: Artifact) -> bool:
    """True if a relative was probed on the job's data sets with as many latents."""
    here, there = job.config.model_dump(mode="json"), relative.spec().config
    return all(here.get(name) == there.get(name) for name in PROBING)


def _on_text(evaluation: _Evaluation, groups: Container[str]) -> bool:
    """True if a group is missing that needs text and the models. Recovery needs none where no features are known."""
    known = any(features_of(model.source) for model in evaluation.job.config.models)
    return any(name in groups and (known or name != "recovery") for name in evaluation.missing)


def _one_pass(evaluations: Sequence[_Evaluation], runtime: Runtime, unigram: Unigram) -> Done:
    from lmsae.evaluation.measures import ON_TEXT
    from lmsae.evaluation.scoring import score, score_without_text
    from lmsae.runtime.progress import show_progress

    first = evaluations[0].job
    config: Config = first.config
    text = _text(first)
    models = [model.load(runtime) for model in config.models]
    hooked: list[tuple[_Evaluation, HookedDictionary]] = []
    for evaluation in evaluations:
        try:
            hooked.append((evaluation, _hook(evaluation, str(models[0].device), unigram)))
        except Exception as error:
            yield evaluation.job, error
    if not hooked:
        return
    with show_progress("eval", unit="token", total=text.usable.size, runtime=runtime) as progress:
        if any(name in ON_TEXT for _, one in hooked for name in one.groups):
            scores = score(models, [one for _, one in hooked], text, config.batch_contexts, progress.advance)
        else:
            scores = [score_without_text(one) for _, one in hooked]
    require_unchanged(models)
    cost = progress.facts(len(hooked))
    scores = add_probes([one.job for one, _ in hooked], [one for _, one in hooked], scores, models, runtime)
    for (evaluation, _), measured in zip(hooked, scores, strict=True):
        yield evaluation.job, evaluation.finish(measured, cost)


def _text(job: Job) -> "HeldOutText":
    """The held-out text that a job is scored on. Raises NotEnoughTokens if no token counts, SourceError for token ids
    beside own activations that are none."""
    from lmsae.stages.inputs.token_rates import with_counts
    from lmsae.text.tokens import open_tokens

    config: Config = job.config
    norms = inputs_from("norm", job.inputs)
    text = read_held_out(job.inputs["tokens"], norms, config.places, config, config.tokens, "eval.tokens")
    return with_counts(text, open_tokens(job.inputs["tokens"].path), config.token_ids)


def _unigram(job: Job) -> float:
    """The unigram loss of the text that a job is scored on, which all jobs of a pass share."""
    from lmsae.evaluation.unigram import count_following, unigram_cross_entropy
    from lmsae.text.tokens import CHUNK_TOKENS, open_tokens

    config, text, tokens = job.config, _text(job), open_tokens(job.inputs["tokens"].path)
    size = tokens.context_size
    step, contexts = max(1, CHUNK_TOKENS // size), min(len(tokens.train), max(1, COUNTED_TOKENS // size))
    slices = [slice(start, min(start + step, contexts)) for start in range(0, contexts, step)]
    skips = config.skip_first_positions, config.skip_last_positions
    train = ((tokens.train[part], tokens.usable("train", part, *skips)) for part in slices)
    held_out = [(text.ids[: len(text.usable)], text.usable)]
    return unigram_cross_entropy(*(count_following(blocks, tokens.d_vocab) for blocks in (train, held_out)))


def _hook(evaluation: _Evaluation, device: str, unigram: Unigram) -> "HookedDictionary":
    """The dictionary of an evaluation at its hook points, to be measured in the groups that are missing."""
    from lmsae.dictionary.dictionary import Dictionary

    job, trained = evaluation.job, evaluation.job.inputs["dictionary"].path
    dictionary, norms = Dictionary.load(trained).to(device), inputs_from("norm", job.inputs)
    places, sites = job.config.places, job.config.sites
    text = {"ce_unigram": unigram()} if "text" in evaluation.missing else {}
    return hook_up(dictionary, places, sites, norms, evaluation.missing, _conversion(trained), text)


def _conversion(dictionary: Path) -> dict[str, float]:
    """The cost of a dictionary's conversion to jumprelu, if it was converted."""
    path = dictionary / CONVERSION
    return json.loads(path.read_text()) if path.exists() else {}


def _count_scored_tokens(spec: Spec, outlook: Outlook) -> float:
    del outlook
    return spec.config["tokens"]


def _rate_of_each(facts: Facts) -> float | None:
    """Every dictionary of a pass is scored on all of its tokens. One that took groups over tells nothing of the rate of
    others."""
    measured_all = "tokens_per_second" in facts and not facts.get("taken_over")
    return facts["tokens_per_second"] * facts["in_pass"] if measured_all else None


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    dictionary = outlook.spec(spec.inputs["dictionary"]).config["dictionary"]
    models = tuple(model["source"]["name"] for model in spec.config["models"])
    return models, dictionary["geometry"]["kind"], dictionary["d_sae"], dictionary["act_fn"]["kind"]


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    del outlook
    return f"{format_count(sum(spec.config['tokens'] for spec in specs))} tokens"


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint:
    """The memory of a pass that measures every metric group."""
    config = specs[0].config_as(Config)
    packing = outlook.spec(specs[0].inputs["tokens"]).config["packing"]
    contexts = max(1, min(config.tokens, packing["held_out_tokens"]) // packing["context_size"])
    models = [read_config(model.source) for model in config.models]
    dictionaries = [outlook.spec(spec.inputs["dictionary"]).config["dictionary"] for spec in specs]
    return scoring_footprint(
        model_bytes=sum(model_bytes(read, one.dtype) for read, one in zip(models, config.models, strict=True)),
        vocabulary=max(read.get("vocab_size", 0) for read in models),
        batch_tokens=min(config.batch_contexts, contexts) * packing["context_size"],
        dictionaries=[size_of(DictionaryConfig.model_validate(one)) for one in dictionaries],
    )


STAGE = Stage(
    name="eval",
    version=2,
    help="dictionary + held-out text + model -> metrics",
    config=Config,
    inputs={"dictionary": "train", "norm": "norm", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"eval": EvalSection},
    shares=pass_of,
    fills_memory=True,
    relatives_differ_in=PROBING | {"groups"},
    on_device=True,
    effort=Effort(
        _count_scored_tokens,
        _rate_of_each,
        _kind,
        size=_size,
        memory=_memory,
        lessen="lower eval.batch_contexts, runtime.together or sae.d_sae",
        given_seconds=4 * HOUR,
    ),
)
