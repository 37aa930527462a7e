# All evals of the sweep -> results/.
rule report:
    input:
        needs("report"),
    output:
        touch(mark("report/{name}")),
    log:
        "logs/report/{name}.log",
    threads: 1
    params:
        artifacts=artifacts("report"),
        flags=FLAGS,
    shell:
        "lmsae report {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
