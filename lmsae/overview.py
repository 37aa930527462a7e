"""What a plan holds and what an artifact is, as text for people."""

import json

from lmsae.artifact import Artifact, Artifacts, Spec
from lmsae.plan import ROW_STAGES, Plan, token_counts
from lmsae.runtime import Runtime
from lmsae.stages import STAGES
from lmsae.text.packing import TokenizeConfig

MOST_ROWS = 40
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def overview(plan: Plan, artifacts: Artifacts, runtime: Runtime) -> str:
    """Stages: wanted, done, to do, and what the rest costs; then rows x stages."""
    finished = {
        spec.reference for stage in STAGES for spec in plan.specs(stage) if artifacts[spec.reference].is_finished
    }
    header = ["stage", "wanted", "shared by", "done", "to do", "passes to run", "to come"]
    lines = [header]
    for stage in STAGES:
        specs = plan.specs(stage)
        todo = [spec for spec in specs if spec.reference not in finished]
        passes = sum(
            any(spec.reference not in finished for spec in group) for group in plan.passes(stage, runtime.together)
        )
        uses = sum(len(row.of(stage)) for row in plan.rows) if stage != "report" else len(plan.rows)
        shared = f"{uses / len(specs):.3g} rows"
        cost = _cost(stage, todo, artifacts)
        lines.append([stage, str(len(specs)), shared, str(len(specs) - len(todo)), str(len(todo)), str(passes), cost])
    rows = [["row", *ROW_STAGES]]
    for row in plan.rows[:MOST_ROWS]:
        rows.append([row.row.name, *(_mark(row.of(stage), finished) for stage in ROW_STAGES)])
    more = [f"... and {len(plan.rows) - MOST_ROWS} more rows"] if len(plan.rows) > MOST_ROWS else []
    return "\n".join([*_table(lines), "", *_table(rows), *more])


def describe(artifact: Artifact, plan: Plan, artifacts: Artifacts) -> str:
    """An artifact's state, config, lineage, provenance, and the rows of the sweep that want it."""
    spec = artifact.spec()
    wanted_by = [row.row.name for row in plan.rows if spec in row.specs.values() or spec == plan.report]
    lines = [
        f"{artifact.reference}  {'finished' if artifact.is_finished else 'not finished'}",
        f"path      {artifact.path}",
        f"wanted by {', '.join(wanted_by) or 'no row of the sweep'}",
        f"version   {spec.version}",
        "",
        "config",
        *("  " + line for line in json.dumps(spec.config, indent=2).splitlines()[1:-1]),
        "",
        "lineage",
    ]
    for reference in artifacts.lineage(artifact.reference):
        lines.append(f"  {reference}  {'finished' if artifacts[reference].is_finished else 'not finished'}")
    if artifact.is_finished:
        lines += ["", f"files     {_bytes(artifact.bytes())} in {len(artifact.manifest()['files'])} files"]
        run = artifact.path / "run.json"
        if run.exists():
            lines += ["", "provenance", *("  " + line for line in run.read_text().splitlines()[1:-1])]
    return "\n".join(lines)


def _mark(specs: list[Spec], finished: set[str]) -> str:
    """Whether a row's artifacts of a stage are done, and the first one's key."""
    state = "done" if all(spec.reference in finished for spec in specs) else "to do"
    return f"{state} {specs[0].key[:6]}" + (f" +{len(specs) - 1}" if len(specs) > 1 else "")


def _cost(stage: str, todo: list[Spec], artifacts: Artifacts) -> str:
    if not todo:
        return ""
    if stage == "activations":
        return _activations_cost(todo, artifacts)
    if stage == "train":
        return f"{_count(sum(spec.config['tokens'] for spec in todo))} tokens"
    if stage == "eval":
        return f"{_count(sum(spec.config['tokens'] for spec in todo))} tokens"
    return ""


def _activations_cost(todo: list[Spec], artifacts: Artifacts) -> str:
    tokens, size, at_most = 0, 0, ""
    for spec in todo:
        source = artifacts[spec.inputs["tokens"]].spec()
        packing = TokenizeConfig.model_validate(source.config["packing"])
        counts = token_counts(source, artifacts)
        contexts = counts["train_contexts"] if counts else packing.most_train_contexts
        if contexts is None:
            return "known once tokenized"
        at_most = at_most if counts else "at most "
        tokens += contexts * packing.context_size
        size += contexts * packing.context_size * spec.config["width"] * BYTES[spec.config["dtype"]]
    return f"{at_most}{_count(tokens)} tokens, {_bytes(size)}"


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def _bytes(number: float) -> str:
    return f"{number:,.0f} bytes" if number < 1000 else f"{_count(number)}B"


def _table(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
