# One rule a stage, all alike: a job makes the artifacts of one pass. What it needs of a cluster is computed from the pass;
# a profile's set-resources win.
# Exit code 2 is an error that lmsae has told in the log. It may concern one artifact of many, so the job ends well, and
# what can be made of the rest is made; at the end `require_done` (sweep.smk) tells all failures.
# Exit code 75 says that another process is making an artifact. A job of Slurm then goes back into the queue, where it holds
# nothing, and looks again in five minutes. Any other job waits, and so does one that Slurm does not take back. What SIGTERM
# would end meanwhile is this shell, before it has said when to look again.
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
        group:
            None if stage.of_sweep else submission(stage.name)
        localrule: stage.of_sweep is not None
        threads: 1 if stage.of_sweep else THREADS
        resources:
            mem_mb=resource(stage.name, "megabytes"),
            runtime=resource(stage.name, "minutes"),
            gpu=resource(stage.name, "gpus"),
        params:
            stage=stage.name,
            artifacts=artifacts(stage.name),
            flags=lambda wildcards: FLAGS,
            job=lambda wildcards: job_of_slurm(),
            waits=lambda wildcards: '"" --wait' if job_of_slurm() else "--wait",
            killed=f"lmsae {stage.name}: {KILLED} ({stage.effort.lessen}).",
        message:
            f"{stage.name}: {stage.help}"
        shell:
            """
            for wait in {params.waits}; do
                lmsae {params.stage} {params.artifacts:q} {params.flags:q} --threads {threads} $wait >{log:q} 2>&1 && code=0 || code=$?
                [ $code -eq 75 ] || break
                trap "" TERM
                if [ -n {params.job:q} ] && scontrol requeue {params.job:q} >>{log:q} 2>&1; then
                    scontrol update JobId={params.job:q} StartTime=now+5minutes >>{log:q} 2>&1
                    sleep 60
                fi
                trap - TERM
            done
            [ $code -ne 137 ] || echo {params.killed:q} >>{log:q}
            [ $code -eq 0 ] || [ $code -eq 2 ] || [ $code -eq 75 ]
            """
