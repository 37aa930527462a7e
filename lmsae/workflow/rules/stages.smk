# One rule a stage, all alike: a job makes the artifacts of one pass. What a stage needs of a cluster stands in the profile.
# Exit code 2 is an error that lmsae has told in the log. It may concern one artifact of many, so the job ends well, and
# what can be made of the rest is made; at the end `require_done` (sweep.smk) tells all failures.
for stage in STAGES.values():

    rule:
        name:
            stage.name
        input:
            needs(stage.name),
        output:
            touch(mark(f"{stage.name}/{{name}}")),
        log:
            f"logs/{stage.name}/{{name}}.log",
        localrule: stage.of_sweep is not None
        threads: 1 if stage.of_sweep else THREADS
        params:
            stage=stage.name,
            artifacts=artifacts(stage.name),
            flags=lambda wildcards: FLAGS,
            killed=f"lmsae {stage.name}: {KILLED} ({stage.effort.lessen}).",
        message:
            f"{stage.name}: {stage.help}"
        shell:
            "lmsae {params.stage} {params.artifacts:q} {params.flags:q} --threads {threads} > {log:q} 2>&1 "
            "|| {{ code=$?; [ $code -ne 137 ] || echo {params.killed:q} >> {log:q}; [ $code -eq 2 ]; }}"
