# The sweep and its passes. One pass is one job, and a rule's only output is the mark that its pass is done.
# A job on a cluster reads this file too. It works from the file of its pass (lmsae/planning/passes.py) and never looks
# at the sweep, which may have changed since the job was submitted.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lmsae.artifacts.artifact import Artifacts
from lmsae.errors import LmsaeError
from lmsae.planning.passes import (
    FOLDER,
    Pass,
    marked_passes,
    unmark_undone,
    write_passes,
)
from lmsae.planning.plan import Plan, plan_of
from lmsae.planning.sheet import read_runtime
from lmsae.stages import ENDS_OF_ROWS, STAGES

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
FLAGS = ["--config", str(CONFIG / "config.yaml"), "--wait"]


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
            shell("lmsae {stage} {references:q} {FLAGS:q} || true")


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
