# Text -> packed contexts of token ids.
rule tokenize:
    output:
        touch(mark("tokenize/{name}")),
    log:
        "logs/tokenize/{name}.log",
    threads: THREADS
    params:
        artifacts=artifacts("tokenize"),
        flags=FLAGS,
    shell:
        "lmsae tokenize {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
