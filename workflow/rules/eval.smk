# Dictionaries + held-out text + model -> metrics; all dictionaries of a model in one reading of the text.
rule eval:
    input:
        needs("eval"),
    output:
        touch(mark("eval/{name}")),
    log:
        "logs/eval/{name}.log",
    threads: THREADS
    params:
        artifacts=artifacts("eval"),
        flags=FLAGS,
    shell:
        "lmsae eval {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
