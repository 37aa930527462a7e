"""A sweep or one experiment, from what the user wrote to what was made: what `lmsae run` and `lmsae.run` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.artifacts.artifact import Artifacts
from lmsae.errors import ConfigError, Fault, MissingPackage
from lmsae.planning.plan import Plan, plan_of, plan_of_list
from lmsae.runtime.runtime import Runtime
from lmsae.stages import STAGES

if TYPE_CHECKING:
    import pyarrow

    from lmsae.application.loaded import LoadedDictionary
    from lmsae.interpretation.opening import Features


def features(
    name: Path | str,
    *,
    artifacts: Path | str = "artifacts",
    results: Path | str = "results",
    also_look_in: Sequence[Path | str] = (),
) -> "Features":
    """The meaning of each latent of a dictionary, as the stage `features` described it (docs/features.md).

    `name` is a row, the first digits of a key, or a folder. `artifacts` is the folder of all artifacts,
    `also_look_in` names folders of others, and `results` is one of those where rows are published. Raises
    MissingArtifact if the name means nothing, or the artifact is not finished, and FolderError for a folder of
    another version.

        found = lmsae.features("resid2-topk-32")
        found.latent(7)["top_tokens"], found.contexts(7).to_pandas()
    """
    from lmsae.commands.finding import find_described
    from lmsae.interpretation.opening import open_features

    everything = Artifacts(Path(artifacts), [Path(folder) for folder in also_look_in])
    return open_features(find_described(name, everything, Path(results)), Path(results))


def run(experiment: Path | str | Mapping[str, Any], *, name: str | None = None, **runtime: Any) -> "LoadedDictionary":
    """Make all stages of one experiment and return its dictionary. An artifact that exists is not made again.

    `experiment` is a TOML, YAML or JSON file, or the nested dict that such a file holds. `name` is that of its row.
    Further keywords are fields of Runtime (artifacts, results, device, threads, ...). Its report is written to a folder
    of its own, `results/<name>`; without a name, one for each experiment. Raises ConfigError with every fault at once,
    before anything runs; and if lists in it make several rows, which `sweep` makes.

        sae = {"hook_point": "blocks.1.hook_resid_post", "architecture": "topk", "k": 16, "d_sae": 1024}
        made = lmsae.run({"sae": sae, "train": {"tokens": 1_000_000}})
        made.metrics["explained_variance"], made.generate("import", add={7: 4.0})
    """
    from lmsae.application.loaded import LoadedDictionary
    from lmsae.commands.running import run_plan

    config = dict(experiment) if isinstance(experiment, Mapping) else Path(experiment)
    plan, settings = plan_of(config, None, [], runtime, name=name)
    if len(plan.rows) > 1:
        message = f"its lists make {len(plan.rows)} rows, and lmsae.run makes one: give it to lmsae.sweep, as a row"
        raise ConfigError([Fault(plan.rows[0].name, None, None, message)])
    (planned,) = plan.rows
    run_plan(plan, settings, say=lambda line: None)
    specs = {stage: spec for stage in STAGES for spec in plan.specs(stage)} | dict(planned.specs)
    folders = {stage: Artifacts.of(settings)[spec.reference].path for stage, spec in specs.items()}
    return LoadedDictionary(planned.name, folders, settings.results, runtime=settings)


@dataclass(frozen=True)
class Experiments:
    """The rows of a sweep after it was made, in the order of the list."""

    rows: "Mapping[str, LoadedDictionary]"
    """Each row by name, with the artifacts that are finished: all, but for a row that has failed."""
    failures: Mapping[str, Exception]
    """The error that ended a row, by the row's name. No other row lacks anything for it."""
    results: Path
    """The folder with the report of the rows."""
    settings: Mapping[str, Mapping[str, Any]]
    """All settings of each row by dotted name, defaults too."""

    def __getitem__(self, name: str) -> "LoadedDictionary":
        """A row. Raises the error that ended it, if it failed, and KeyError if there is no such row."""
        if name in self.failures:
            raise self.failures[name]
        return self.rows[name]

    @cached_property
    def table(self) -> Any:
        """Settings and metrics, a line for each row, as a pandas DataFrame. Raises MissingPackage without pandas, which
        nothing else in lmsae needs."""
        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            message = "pandas is not installed: `pip install pandas`, or use to_arrow(), which polars reads too"
            raise MissingPackage(f"{message} (`polars.from_arrow`)") from None

    def to_arrow(self) -> "pyarrow.Table":
        """The same table as pyarrow has it, in which whole numbers stay whole."""
        import pyarrow as pa

        return pa.table(self._columns())

    def _columns(self) -> "dict[str, Sequence[Any]]":
        """The columns of the table: name, settings, metrics in the order of the report, and the error if there is any.
        A row has None where it has no value."""
        from lmsae.report.main_metrics import in_order
        from lmsae.report.tables import as_cell, of_one_type

        measured = [one.metrics if "eval" in one.artifacts else {} for one in self.rows.values()]
        numbers = [{name: v for name, v in one.items() if not isinstance(v, list)} for one in measured]
        settings = [self.settings[name] for name in self.rows]
        errors = [self.failures.get(name) for name in self.rows]
        return {
            "name": list(self.rows),
            **{name: of_one_type([as_cell(one.get(name)) for one in settings]) for name in _names(settings)},
            **{name: of_one_type([one.get(name) for one in numbers]) for name in in_order(_names(numbers))},
            "error": [None if error is None else str(error) for error in errors],
        }


def sweep(
    rows: Sequence[Mapping[str, Any]],
    shared: Path | str | Mapping[str, Any] = "config/config.yaml",
    *,
    name: str | None = None,
    **runtime: Any,
) -> Experiments:
    """Make all rows of a list in shared passes, as `lmsae run` makes those of a sheet, and return them. An artifact
    that exists is not made again.

    A row is a dict of settings by dotted name or by section, over the `shared` ones: a TOML, YAML or JSON file, or the
    nested dict that such a file holds. Its keys are those of the same row in a sheet, and a list in the place of a
    value makes a row for each of its values, as there (config/README.md). Its `name` is `row-1`, `row-2`
    ... if it has none. `name` is that of the sweep, and further keywords are fields of Runtime. Its report is written
    to `results/<name>`; without a name, one for each sweep. Raises ConfigError with every fault of all rows at once,
    before anything runs. A row that fails later costs no other anything: it is among the `failures`.

        made = lmsae.sweep([{"name": f"k{k}", "sae.k": k} for k in (8, 16, 32)], "config/config.yaml")
        made.table[["name", "sae.k", "explained_variance"]], made["k8"].dictionary, made.failures
        lmsae.sweep([{"name": "grid-k{sae.k}-s{train.seed}", "sae.k": [8, 16], "train.seed": [0, 1]}])
    """
    from lmsae.commands.running import try_plan

    beneath = shared if isinstance(shared, Mapping) else Path(shared)
    plan, settings = plan_of_list(rows, beneath, name, runtime)
    return _experiments(plan, settings, try_plan(plan, settings))


def _experiments(plan: Plan, settings: Runtime, failures: Mapping[str, Exception]) -> Experiments:
    from lmsae.application.loaded import LoadedDictionary

    artifacts, made, failed = Artifacts.of(settings), dict[str, LoadedDictionary](), dict[str, Exception]()
    of_sweep = {stage: spec for stage in STAGES if STAGES[stage].of_sweep for spec in plan.specs(stage)}
    for row in plan.rows:
        specs = {**row.specs, **of_sweep}
        there = {stage: artifacts[spec.reference] for stage, spec in specs.items()}
        folders = {stage: artifact.path for stage, artifact in there.items() if artifact.is_finished}
        made[row.name] = LoadedDictionary(row.name, folders, settings.results, runtime=settings)
        if found := [failures[spec.reference] for spec in row.specs.values() if spec.reference in failures]:
            failed[row.name] = found[0]
    return Experiments(made, failed, settings.results, {row.name: row.settings for row in plan.rows})


def _names(mappings: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """Every name of some mappings, in the order in which they come first."""
    return dict.fromkeys(name for mapping in mappings for name in mapping)
