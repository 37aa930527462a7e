# Everything that a sweep wants: `snakemake --cores all`. Other targets: `snakemake --list-target-rules`; docs/engines.md.
from snakemake.utils import min_version

min_version("9.0")


# Read only with `--software-deployment-method apptainer`: an image that has lmsae installed.
container: config.get("container", "lmsae.sif")


include: "workflow/rules/sweep.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/norm.smk"
include: "workflow/rules/init.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/eval.smk"
include: "workflow/rules/report.smk"


localrules:
    report,


rule all:
    default_target: True
    input:
        wanted("report", PLAN.rows),


for stage in STAGES:

    rule:
        name:
            f"{stage}_all"
        input:
            wanted(stage, PLAN.rows),


for planned in PLAN.rows:

    rule:
        name:
            f"row_{planned.row.name}"
        input:
            wanted("eval", [planned]),
