"""Along the way: dictionaries that training evaluates on held-out text, and keeps, between its steps."""

import csv
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lmsae.artifacts.artifact import Artifact, digest_of_file
from lmsae.config import Frozen, canonical_json
from lmsae.metrics.definitions import GROUPS, HISTOGRAM_ENDS, bin_centers
from lmsae.runtime.drafts import draft_of
from lmsae.runtime.wandb_log import Counts
from lmsae.stages.finishing import finish_copy
from lmsae.stages.inputs.held_out import EvalSection, hook_up, read_held_out, require_current
from lmsae.stages.models import LMConfig, require_unchanged
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Place, inputs_from
from lmsae.stages.stage import Job

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.evaluation.repeated import RepeatedScoring
    from lmsae.evaluation.scores import Score
    from lmsae.lm.protocol import LanguageModel
    from lmsae.training.run import Run

LINES, DENSITIES, KEPT = "along.csv", "densities.csv", "steps"
LATENTS = "latents.safetensors"
MEASURED = ("reconstruction", "sparsity", "model")
OF_VECTORS = ("explained_variance", "mse", "l2_ratio", "l0")
OF_MODEL = ("ce_loss_score_mean", "ce_difference")
METRICS = (*OF_VECTORS, *OF_MODEL)
TOLD = {
    "explained_variance": "explained variance",
    "l0": "L0",
    "ce_loss_score_mean": "CE score",
    "dead": "dead latents",
}
Line = dict[str, Any]
"""An evaluation: the columns of `along.csv` by name, and `histogram`, the latents by firing rate."""


def _current_versions(*, without_model: bool = False) -> dict[str, int]:
    return {name: GROUPS[name].version for name in MEASURED if not (without_model and GROUPS[name].needs_model)}


class HeldOut(Frozen):
    """The models that read held-out text, the hook points of a dictionary, and the versions of what is measured."""

    models: tuple[LMConfig, ...]
    places: tuple[Place, ...]
    batch_contexts: int
    groups: dict[str, int] = Field(default_factory=_current_versions)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of an evaluation: own activations have no language model, and so no losses of one."""
        return METRICS if "model" in self.groups else OF_VECTORS


def held_out_of(row: ResolvedRow) -> HeldOut:
    """The held-out evaluations of a row's training."""
    batch_contexts = row.section(EvalSection).batch_contexts
    groups = _current_versions(without_model=row.text is None)
    places = tuple(row.places.all)
    return HeldOut(models=tuple(row.models), places=places, batch_contexts=batch_contexts, groups=groups)


class Scorings:
    """The scorings of a pass. Jobs that measure on the same text share one, and with it the models' own passes."""

    def __init__(self, models: "Mapping[LMConfig, LanguageModel]") -> None:
        self._models = models
        self._scorings: dict[str, RepeatedScoring] = {}

    def score(self, job: Job, dictionary: "Dictionary") -> "Score":
        """The score of a dictionary on the held-out text of its job. Raises NotEnoughTokens if no token counts."""
        from lmsae.evaluation.repeated import RepeatedScoring

        config, held_out, norms = job.config, job.config.held_out, inputs_from("norm", job.inputs)
        hooked = hook_up(dictionary, held_out.places, config.sites, norms, [*held_out.groups])
        name = measured_as(config.model_dump(mode="json"))
        if name not in self._scorings:
            most, by = config.eval_tokens, "train.eval_tokens"
            models = [self._models[model] for model in held_out.models]
            self._scorings[name] = RepeatedScoring(
                models,
                read_held_out(job.inputs["tokens"], norms, held_out.places, config, most, by),
                hooked,
                held_out.batch_contexts,
            )
            require_unchanged(models)
        return self._scorings[name].score(hooked)


def measured_as(config: Mapping[str, Any]) -> str:
    """The values that two trainings must share for equal evaluations of equal dictionaries; empty if a config, in the
    form of a spec, wants no evaluation."""
    return canonical_json([config["held_out"], config["eval_tokens"]]) if config["held_out"] else ""


class Along:
    """The findings of a job between the steps of its training, and the dictionaries that it keeps (an Onlooker). Each
    is the one that would be saved if training ended there; the run is left as it is."""

    def __init__(self, job: Job, scorings: Scorings, hear: Callable[[Line], None] = lambda line: None) -> None:
        """`hear` is told each new evaluation."""
        config = job.config
        self._job, self._scorings, self._hear = job, scorings, hear
        self._evaluated, self._kept = frozenset(config.evaluated_steps), frozenset(config.kept_steps)
        self._measured_as = measured_as(config.model_dump(mode="json"))
        self._lines, self._files = dict[int, Line](), dict[int, dict[str, str]]()
        self.evaluations, self.seconds = 0, 0.0
        if config.held_out:
            require_current(config.held_out.groups, job.out)

    @property
    def points(self) -> Sequence[Mapping[str, float | Counts]]:
        return [_point(self._lines[steps]) for steps in sorted(self._lines)]

    def look(self, run: "Run") -> None:
        steps = run.steps_done
        if steps not in self._evaluated and steps not in self._kept:
            return
        began, is_kept = time.perf_counter(), steps in self._kept
        dictionary = finish_copy(run.copy_dictionary(), self._job, is_kept=is_kept)
        score = self._evaluate(run, dictionary) if steps in self._evaluated else None
        if is_kept:
            self._keep(steps, dictionary, score)
        self.seconds += time.perf_counter() - began

    def end(self, run: "Run", dictionary: "Dictionary") -> None:
        """Evaluate the dictionary that is saved of a finished run, and write what was found along the way."""
        if run.steps_done in self._evaluated:
            self._evaluate(run, dictionary)
        self.write()

    def write(self) -> None:
        """Write `along.csv` and `densities.csv`, if anything was to be evaluated."""
        if not self._evaluated:
            return
        lines = [self._lines[steps] for steps in sorted(self._lines)]
        columns = ("steps", "tokens", *self._job.config.held_out.metrics, "dead")
        _write_csv(self._job.out / LINES, columns, [[line[name] for name in columns] for line in lines])
        bins = [[line["steps"], *one] for line in lines for one in zip(bin_centers(), line["histogram"], strict=True)]
        _write_csv(self._job.out / DENSITIES, ("steps", "log10_density", "latents"), bins)

    def state(self) -> dict[str, Any]:
        lines = list(self._lines.values())
        return {"measured_as": self._measured_as, "lines": lines, "files": self._files}

    def take_over(self, state: Mapping[str, Any] | None, steps: int, folder: Path) -> str:
        found = state or {"measured_as": "", "lines": [], "files": {}}
        alike = found["measured_as"] == self._measured_as
        lines = {line["steps"]: line for line in found["lines"]} if alike else {}
        evaluated = sorted(one for one in self._evaluated if one <= steps)
        kept = sorted(one for one in self._kept if one <= steps)
        for wanted, there, done in ((evaluated, lines, "evaluated so"), (kept, found["files"], "kept")):
            if missing := [one for one in wanted if one not in there]:
                return f"its dictionary was not {done} after {missing[0]:,} steps, as is wanted here"
        files = {one: _without_latents(found["files"][one], wants_them=alike) for one in kept}
        for one, digests in files.items():
            for name, digest in digests.items():
                file = folder / KEPT / str(one) / name
                if not file.is_file() or digest_of_file(file) != digest:
                    return f"{file} is not what was written"
        if folder != self._job.out:
            for one, digests in files.items():
                _copy_files(folder / KEPT / str(one), self._job.out / KEPT / str(one), digests)
        self._lines, self._files = {one: lines[one] for one in evaluated}, files
        return ""

    def take_over_finished(self, artifact: Artifact) -> str:
        """Take over all that is wanted from a finished training of the same steps, and write it; returns what is not
        there, empty if nothing is. The artifact must be intact."""
        digests = {entry["path"]: entry["blake3"] for entry in artifact.manifest()["files"]}
        state = {
            "measured_as": measured_as(artifact.spec().config),
            "lines": _read_lines(artifact.path) if LINES in digests else [],
            "files": _by_steps(digests),
        }
        missing = self.take_over(state, self._job.config.steps, artifact.path)
        if not missing:
            self.drop_leftovers()
            self.write()
        return missing

    def drop_leftovers(self) -> None:
        """Remove what an interrupted process left of dictionaries that are to be kept anew."""
        folder = self._job.out / KEPT
        for path in folder.iterdir() if folder.exists() else ():
            if path.name not in map(str, self._files):
                shutil.rmtree(path)

    def _evaluate(self, run: "Run", dictionary: "Dictionary") -> "Score":
        score = self._scorings.score(self._job, dictionary)
        line: Line = {"steps": run.steps_done, "tokens": run.steps_done * run.config.batch_size}
        line |= {name: score.metrics[name] for name in self._job.config.held_out.metrics}
        line |= {"dead": run.count_dead(), "histogram": score.histograms["density_histogram"]}
        self._lines[run.steps_done] = line
        self.evaluations += 1
        self._hear(line)
        if run.log:
            run.log(_point(line))
        return score

    def _keep(self, steps: int, dictionary: "Dictionary", score: "Score | None") -> None:
        from lmsae.runtime.tensors import save_tensors

        folder = self._job.out / KEPT / str(steps)
        folder.parent.mkdir(exist_ok=True)
        with draft_of(folder) as draft:
            draft.mkdir()
            dictionary.save(draft)
            if score:
                save_tensors(score.latents, draft / LATENTS)
            self._files[steps] = {file.name: digest_of_file(file) for file in sorted(draft.iterdir())}
            self._job.require_claim()


def tell(lines: Sequence[Line]) -> list[str]:
    """A sentence on the evaluations after each number of steps; of several runs the range."""
    said = []
    for steps in sorted({line["steps"] for line in lines}):
        here = [line for line in lines if line["steps"] == steps]
        values = {name: [line[name] for line in here if name in line] for name in TOLD}
        parts = [f"{title} {_range(values[name])}" for name, title in TOLD.items() if values[name]]
        said.append(f"after {steps:,} steps, on held-out text: {', '.join(parts)}")
    return said


def _range(values: Sequence[float]) -> str:
    ends = (f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))


def _point(line: Line) -> dict[str, float | Counts]:
    """An evaluation for a run's log, at the step of the curves that had been done last."""
    measured = {name: line[name] for name in METRICS if name in line}
    measured |= {"log10_density": Counts(line["histogram"], *HISTOGRAM_ENDS)}
    return {"step": line["steps"] - 1, **{f"held_out/{name}": value for name, value in measured.items()}}


def _without_latents(digests: Mapping[str, str], *, wants_them: bool) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if wants_them or name != LATENTS}


def _copy_files(source: Path, target: Path, names: Sequence[str] | Mapping[str, str]) -> None:
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    with draft_of(target) as draft:
        draft.mkdir()
        for name in names:
            shutil.copyfile(source / name, draft / name)


def _by_steps(digests: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """The files of the dictionaries that an artifact keeps, by steps."""
    files: dict[int, dict[str, str]] = {}
    for path, digest in digests.items():
        match path.split("/"):
            case [folder, steps, name] if folder == KEPT:
                files.setdefault(int(steps), {})[name] = digest
    return files


def _write_csv(path: Path, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)


def _read_lines(folder: Path) -> list[Line]:
    """The evaluations that `write` wrote into a folder, to the same numbers."""
    histograms: dict[float, list[int]] = {}
    with open(folder / DENSITIES, newline="") as file:
        for one in csv.DictReader(file):
            histograms.setdefault(int(one["steps"]), []).append(int(one["latents"]))
    whole = ("steps", "tokens", "dead")
    with open(folder / LINES, newline="") as file:
        lines = [{k: int(v) if k in whole else float(v) for k, v in one.items()} for one in csv.DictReader(file)]
    return [{**line, "histogram": histograms[line["steps"]]} for line in lines]
