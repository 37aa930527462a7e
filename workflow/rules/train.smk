# Activations + starting weights -> dictionaries; those that read the same stream train in one pass.
rule train:
    input:
        needs("train"),
    output:
        touch(mark("train/{name}")),
    log:
        "logs/train/{name}.log",
    threads: THREADS
    params:
        artifacts=artifacts("train"),
        flags=FLAGS,
    shell:
        "lmsae train {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
