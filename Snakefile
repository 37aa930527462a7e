# Everything that a sweep wants: `snakemake --cores all`. Other targets: `snakemake --list-target-rules`; docs/engines.md.
from snakemake.utils import min_version

min_version("9.0")


# Read only with `--software-deployment-method apptainer`: an image that has lmsae installed.
container: config.get("container", "lmsae.sif")


include: "workflow/rules/sweep.smk"
include: "workflow/rules/stages.smk"


rule all:
    default_target: True
    input:
        wanted([stage for stage in STAGES.values() if stage.is_wanted], PLAN.rows),


for stage in STAGES.values():

    rule:
        name:
            f"{stage.name}_all"
        input:
            wanted([stage], PLAN.rows),


for planned in PLAN.rows:

    rule:
        name:
            f"row_{planned.name}"
        input:
            wanted(ENDS_OF_ROWS, [planned]),


onstart:
    DONE.update(marked_passes(RUNTIME))


onsuccess:
    require_done()
    # Jobs on a cluster run this file too, and have an empty plan. Other targets may have made no report.
    for stage in STAGES.values():
        if stage.publisher and is_published(stage):
            print(stage.publisher.summarize(RUNTIME.results))


onerror:
    report_what_is_there()
    require_done()
