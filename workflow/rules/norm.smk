# Activations -> their scale, mean and variance.
rule norm:
    input:
        needs("norm"),
    output:
        touch(mark("norm/{name}")),
    log:
        "logs/norm/{name}.log",
    group:
        "start"
    threads: THREADS
    params:
        artifacts=artifacts("norm"),
        flags=FLAGS,
    shell:
        "lmsae norm {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
