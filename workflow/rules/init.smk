# Activations + architecture -> starting weights.
rule init:
    input:
        needs("init"),
    output:
        touch(mark("init/{name}")),
    log:
        "logs/init/{name}.log",
    group:
        "start"
    threads: THREADS
    params:
        artifacts=artifacts("init"),
        flags=FLAGS,
    shell:
        "lmsae init {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
