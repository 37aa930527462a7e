# Tokens + model -> activations: one forward pass for all hook points of a model.
rule activations:
    input:
        needs("activations"),
    output:
        touch(mark("activations/{name}")),
    log:
        "logs/activations/{name}.log",
    threads: THREADS
    params:
        artifacts=artifacts("activations"),
        flags=FLAGS,
    shell:
        "lmsae activations {params.artifacts} {params.flags} --threads {threads} > {log} 2>&1"
