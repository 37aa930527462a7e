# The sweep and its passes. One pass is one job, and a rule's only output is the mark that its pass is done.
# A job on a cluster reads this file too. It works from the file of its pass (lmsae/planning/passes.py) and never looks
# at the sweep, which may have changed since the job was submitted.
import os
from functools import lru_cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lmsae.artifacts.artifact import Artifacts
from lmsae.errors import LmsaeError
from lmsae.planning.estimates import Estimator
from lmsae.planning.passes import (
    FOLDER,
    Pass,
    marked_passes,
    unmark_undone,
    write_passes,
)
from lmsae.planning.plan import Plan, plan_of
from lmsae.planning.resources import resources_of
from lmsae.planning.sheet import read_runtime
from lmsae.stages import ENDS_OF_ROWS, STAGES
from lmsae.training.interruption import STOPPED

CONFIG = Path(config.get("folder", "config"))

try:
    if workflow.is_main_process:
        PLAN, RUNTIME = plan_of(CONFIG / "config.yaml", CONFIG / "sweep.tsv", [], {})
        PLAN.write(Artifacts.of(RUNTIME), RUNTIME.together)
    else:
        PLAN, RUNTIME = Plan([]), read_runtime(CONFIG / "config.yaml", {}, [])
except (LmsaeError, OSError) as error:
    raise WorkflowError(str(error)) from None

if set("{}") & set(str(RUNTIME.artifacts)):
    raise WorkflowError(
        f"runtime.artifacts {RUNTIME.artifacts}: Snakemake takes braces in a path for wildcards. Name another folder."
    )

# The number of threads can change the last bits of a sum, so a job gets as many as without Snakemake, if possible.
THREADS = RUNTIME.threads or 8
# What a job's log says that ended with 137, where the kernel lets no process say anything.
KILLED = (
    "killed (exit code 137), as the kernel does when memory runs out: give the job more (set-resources of the profile), "
    "or ask for less"
)
LONGEST_NAME = 60
FLAGS = ["--config", str(CONFIG / "config.yaml")]
# A job on a cluster has its resources already, so it looks at no finished artifact for how long they took.
OUTLOOK = Estimator.of(PLAN, RUNTIME, measures=workflow.is_main_process)


wildcard_constraints:
    name="[0-9a-f]+-[0-9a-f]+",


def mark(reference):
    """The file that says that a pass is done."""
    return f"{RUNTIME.artifacts}/{FOLDER}/{reference}.done"


def pass_of(stage):
    return lambda wildcards: Pass.read(RUNTIME.artifacts, f"{stage}/{wildcards.name}")


def needs(stage):
    """An input function: the marks of the passes that a pass of the stage needs.

    A pass that is done asks for no other that is not: neither a new row beside its inputs
    nor activations deleted since start anything again.
    """

    def marks(wildcards):
        needed = [mark(need) for need in pass_of(stage)(wildcards).needs]
        done = Path(mark(f"{stage}/{wildcards.name}")).exists()
        return [path for path in needed if Path(path).exists()] if done else needed

    return ancient(marks)


def artifacts(stage):
    """A function for `params`: the artifacts that a pass of the stage makes."""
    return lambda wildcards: pass_of(stage)(wildcards).artifacts


@lru_cache(maxsize=None)
def resources(stage, name, attempt):
    """What a scheduler is asked for to make a pass. The log is that of the attempt before."""
    log = Path(f"logs/{stage}/{name}.log")
    was_stopped = attempt > 1 and log.exists() and STOPPED in log.read_text()
    specs = [
        OUTLOOK.spec(one)
        for one in Pass.read(RUNTIME.artifacts, f"{stage}/{name}").artifacts
    ]
    return resources_of(
        STAGES[stage],
        specs,
        OUTLOOK,
        attempt=attempt,
        ran_out_of_memory=not was_stopped,
    )


def resource(stage, what):
    """A function for `resources`, called when a job is to be run."""
    return lambda wildcards, attempt: getattr(
        resources(stage, wildcards.name, attempt), what
    )


def job_of_slurm():
    """The number of the job that Slurm runs this process in; empty where Snakemake has not submitted it."""
    return os.environ.get("SLURM_JOB_ID", "") if workflow.remote_exec else ""


@lru_cache(maxsize=None)
def rows_by_artifact():
    """The names of the rows that want each artifact, by its reference."""
    names = {}
    for row in PLAN.rows:
        for spec in row.specs.values():
            names.setdefault(spec.reference, []).append(row.name)
    return names


def rows_of(reference):
    """`<row>+<number of other rows>`: the rows that want what a pass makes."""
    made = Pass.read(RUNTIME.artifacts, reference).artifacts
    rows = [*dict.fromkeys(row for one in made for row in rows_by_artifact()[one])]
    return rows[0][:LONGEST_NAME] + (f"+{len(rows) - 1}" if len(rows) > 1 else "")


def submission(stage):
    """A function for `group`: `<stage>-<rows>`, which is all that Snakemake's plugin for Slurm shows of a job.

    Every pass is a submission of its own, unless its stage `goes_with` another.
    """

    def name(wildcards):
        if workflow.local_exec or not workflow.is_main_process:
            return None  # nothing is submitted; a job has an empty plan
        reference, needs = f"{stage}/{wildcards.name}", pass_of(stage)(wildcards).needs
        other = STAGES[stage].goes_with
        with_it = [one for one in needs if other and one.startswith(f"{other}/")]
        sent = with_it[0] if len(with_it) == 1 else reference
        return f"{sent.partition('/')[0]}-{rows_of(sent)}"

    return name


def wanted(stages, rows):
    """An input function: the passes of stages that the rows want, grouped as if the sweep had no other rows."""

    def marks(wildcards):
        try:
            written = write_passes(Plan(rows), RUNTIME)
        except (LmsaeError, OSError) as error:
            raise WorkflowError(str(error)) from None
        return [
            mark(reference) for stage in stages for reference in written[stage.name]
        ]

    return marks


# The passes that were done when this run began.
DONE = set()


def report_what_is_there():
    """Make the report of what there is, if it was wanted and a job died that it waits for."""
    for job in workflow.dag.needrun_jobs():
        if STAGES.get(job.rule.name) and STAGES[job.rule.name].of_sweep:
            stage, references = job.rule.name, artifacts(job.rule.name)(job.wildcards)
            shell("lmsae {stage} {references:q} {FLAGS:q} --wait || true")


def require_done():
    """Raise WorkflowError with what the logs say of every pass of this run that is not done."""
    undone = unmark_undone(marked_passes(RUNTIME) - DONE, RUNTIME)
    if undone:
        lines = ["Some artifacts failed; all that need none of them are made:"]
        for reference in (reference for reference, failed in undone.items() if failed):
            log = Path(f"logs/{reference}.log")
            said = log.read_text() if log.exists() else ""
            error = said.rfind(f"lmsae {reference.partition('/')[0]}: ")
            lines.append(f"{log}: {said[max(error, 0):].strip()}")
        raise WorkflowError("\n".join(lines))


def is_published(stage):
    """True if the folder of results shows what the sweep wants of a stage."""
    finished = [
        Artifacts.of(RUNTIME)[spec.reference] for spec in PLAN.specs(stage.name)
    ]
    return bool(finished) and all(
        artifact.is_finished and stage.publisher.is_published(artifact, RUNTIME.results)
        for artifact in finished
    )
