"""Overviews for people: of a plan, and of an artifact."""

import json
from collections.abc import Set

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.planning.estimates import Estimator, format_estimate
from lmsae.planning.plan import Plan
from lmsae.runtime.numbers import format_bytes, format_count, format_duration, format_share, format_table
from lmsae.runtime.runtime import Runtime
from lmsae.stages import ROW_STAGES, STAGES
from lmsae.stages.fitting import Room, total
from lmsae.stages.footprint import Footprint

MOST_ROWS = 40


def overview(plan: Plan, artifacts: Artifacts, runtime: Runtime) -> str:
    """Stages: wanted, done, to do, and what the rest costs; then rows x stages."""
    finished = artifacts.finished(spec.reference for stage in STAGES for spec in plan.specs(stage))
    wanted = [stage for stage in STAGES if plan.specs(stage)]
    header = ["stage", "wanted", "shared by", "done", "to do", "passes to run", "to come"]
    lines, times, lacks, room = [header], dict[str, float | None](), list[str](), Room.to_plan(runtime)
    estimator = Estimator.of(plan, runtime)
    for stage in wanted:
        specs = plan.specs(stage)
        todo = [spec for spec in specs if spec.reference not in finished]
        groups = [[s for s in group if s.reference not in finished] for group in plan.passes(stage, runtime.together)]
        passes = [group for group in groups if group]
        shared = f"{plan.count_uses(stage) / len(specs):.3g} rows"
        times |= {stage: _time(estimator, stage, passes)} if passes else {}
        size = STAGES[stage].effort.size(todo, estimator) if todo else ""
        footprint = _footprint(estimator, stage, passes)
        lacks += _lack(stage, footprint, room)
        memory = _format_memory(footprint) if footprint else ""
        cost = ", ".join(filter(None, [size, format_estimate(times.get(stage)), memory]))
        counts = (len(specs) - len(todo), len(todo), len(passes))
        lines.append([stage, str(len(specs)), shared, *map(str, counts), cost])
    of_rows = [stage for stage in ROW_STAGES if stage in wanted]
    rows = [["row", *of_rows]]
    for row in plan.rows[:MOST_ROWS]:
        rows.append([row.name, *(_mark(row.of(stage), finished) for stage in of_rows)])
    more = [f"... and {len(plan.rows) - MOST_ROWS} more rows"] if len(plan.rows) > MOST_ROWS else []
    remarks = [*_format_lent(finished, artifacts), *_remarks(plan, finished, estimator)]
    return "\n".join([*format_table(lines), *_format_times(times), *lacks, *remarks, "", *format_table(rows), *more])


def describe(artifact: Artifact, plan: Plan | None, artifacts: Artifacts) -> str:
    """An artifact's state, config, lineage, provenance, and the rows of the sweep that want it, if there is a plan."""
    spec = artifact.spec()
    unknown = "nobody knows: the sheet has faults, which `lmsae plan` lists"
    wanted_by = (", ".join(plan.names_of_rows(spec)) or "no row of the sweep") if plan else unknown
    lines = [
        f"{artifact.reference}  {'finished' if artifact.is_finished else 'not finished'}",
        f"path      {artifact.path}",
        *([f"lent by   {artifact.lender} (runtime.also_look_in); nothing is written there"] if artifact.lender else []),
        f"wanted by {wanted_by}",
        f"version   {spec.version}",
        "",
        "config",
        *("  " + line for line in json.dumps(spec.config, indent=2).splitlines()[1:-1]),
        "",
        "lineage",
    ]
    for reference in artifacts.lineage(artifact.reference):
        one = artifacts[reference]
        lent = f", lent by {one.lender}" if one.lender else ""
        lines.append(f"  {reference}  {'finished' if one.is_finished else 'not finished'}{lent}")
    if artifact.is_finished:
        lines += ["", f"files     {format_bytes(artifact.bytes())} in {len(artifact.manifest()['files'])} files"]
        lines += _cost_of(artifact)
        run = artifact.path / "run.json"
        if run.exists():
            lines += ["", "provenance", *("  " + line for line in run.read_text().splitlines()[1:-1])]
    return "\n".join(lines)


def _format_lent(finished: Set[str], artifacts: Artifacts) -> list[str]:
    """A line for each folder that lends some of the finished artifacts."""
    lenders = [artifacts[reference].lender for reference in finished] if artifacts.lenders else []
    counts = [(folder, lenders.count(folder)) for folder in dict.fromkeys(artifacts.lenders)]
    said = [f"{count} of those done are lent by {folder} (runtime.also_look_in)" for folder, count in counts if count]
    return ["", *said] if said else []


def _remarks(plan: Plan, finished: Set[str], estimator: Estimator) -> list[str]:
    """Sentences of stages on their finished artifacts."""
    said = []
    for name, stage in STAGES.items():
        if stage.remark:
            for spec in (spec for spec in plan.specs(name) if spec.reference in finished):
                told = stage.remark(spec, estimator)
                said += [f"{name} {spec.key[:6]}: {told}"] if told else []
    return ["", *said] if said else []


def _time(estimator: Estimator, stage: str, passes: list[list[Spec]]) -> float | None:
    """Seconds that a stage will take, one pass after the other; None where of any it is not known."""
    times = [estimator.seconds(stage, group) for group in passes]
    return None if None in times else sum(filter(None, times))


def _footprint(estimator: Estimator, stage: str, passes: list[list[Spec]]) -> Footprint | None:
    """The memory of that pass of a stage that takes the most; None where nobody knows it."""
    footprints = [found for group in passes if (found := STAGES[stage].effort.memory(group, estimator)) is not None]
    return max(footprints, key=lambda footprint: footprint.nbytes, default=None)


def _format_memory(footprint: Footprint) -> str:
    said = f"{format_bytes(total(footprint))} of memory"
    if footprint.processes == 1:
        return said
    each = format_bytes(footprint.of_one_process.nbytes)
    return f"{said} in {footprint.processes} processes of {each} and the one that starts them"


def _lack(stage: str, footprint: Footprint | None, room: Room) -> list[str]:
    """A warning of a pass that does not fit into this machine, which need not be the one that makes it."""
    lack = footprint and room.lack(footprint)
    return ["", f"{stage}: on this machine, {lack}"] if lack else []


def _format_times(times: dict[str, float | None]) -> list[str]:
    """A line on the time to come, if there is any."""
    unknown = [stage for stage, seconds in times.items() if seconds is None]
    known = sum(seconds for seconds in times.values() if seconds)
    said = (
        [f"{format_estimate(known)} to come, as finished artifacts took and one pass after the other"] if known else []
    )
    said += [f"no estimate yet of {', '.join(unknown)}: none that is alike has been made here"] if unknown else []
    return ["", "; ".join(said)] if said else []


def _cost_of(artifact: Artifact) -> list[str]:
    """A line on what an artifact cost, as far as its run.json says."""
    from lmsae.report.cost import Cost

    cost = Cost.of(artifact)
    if cost.seconds is None:
        return []
    share = f", its share of a pass of {cost.in_pass}" if (cost.in_pass or 1) > 1 else ""
    said = [format_duration(cost.seconds) + share]
    said += [f"{format_count(cost.tokens_per_second)} tokens/s"] if cost.tokens_per_second else []
    said += [f"waiting for data {format_share(cost.waiting)} of the time"] if cost.waiting is not None else []
    said += [f"{format_count(cost.flops_per_second)}FLOP/s"] if cost.flops_per_second else []
    said += [f"{format_bytes(cost.memory)} of memory at most"] if cost.memory else []
    return [f"cost      {'; '.join(said)}"]


def _mark(specs: list[Spec], finished: set[str]) -> str:
    """The state of a row's artifacts of a stage, done or to do, and the first one's key; a dash if it has none."""
    if not specs:
        return "-"
    state = "done" if all(spec.reference in finished for spec in specs) else "to do"
    return f"{state} {specs[0].key[:6]}" + (f" +{len(specs) - 1}" if len(specs) > 1 else "")
