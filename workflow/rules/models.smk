# Models: the tiny ones are pre-trained here, all others are fetched.


rule tokenizer:
    input:
        rules.corpus.output,
    output:
        directory(str(layout.tokenizer)),
    log:
        f"{LOGS}/tokenizer.log",
    params:
        settings=settings("tokenizer", *tokenizer_settings()),
    shell:
        "dpg model tokenizer {input} --out {output} > {log} 2>&1"


rule pretrain:
    input:
        corpus=rules.corpus.output,
        tokenizer=rules.tokenizer.output,
    output:
        directory(str(layout.model("{model}"))),
    log:
        f"{LOGS}/pretrain/{{model}}.log",
    benchmark:
        f"{LOGS}/pretrain/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(TRAINED),
    params:
        settings=lambda wildcards: settings(
            "pretrain", scale.models[wildcards.model], scale.pretraining
        ),
    shell:
        "dpg model train {wildcards.model} {input.corpus} {input.tokenizer} "
        "--out {output} > {log} 2>&1"


rule finish:
    input:
        corpus=rules.corpus.output,
        base=lambda wildcards: layout.model(scale.models[wildcards.model].base),
    output:
        directory(str(layout.model("{model}"))),
    log:
        f"{LOGS}/finish/{{model}}.log",
    benchmark:
        f"{LOGS}/finish/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(FINISHED),
    params:
        settings=lambda wildcards: settings(
            "finish", scale.models[wildcards.model], scale.pretraining
        ),
    shell:
        "dpg model finish {wildcards.model} {input.corpus} {input.base} "
        "--out {output} > {log} 2>&1"


rule embedding:
    input:
        campaigns=f"{SOURCES}/pretraining-campaigns",
        passages=rules.passages.output,
    output:
        directory(str(layout.embedding)),
    log:
        f"{LOGS}/embedding.log",
    params:
        *revision("embedding"),
    shell:
        "dpg model embedding {input.campaigns} --passages {input.passages} "
        "--out {output} > {log} 2>&1"


# `snakemake base_models` makes every model of the scale, even if no run uses it yet.
rule base_models:
    input:
        [layout.model(name) for name in scale.models],


rule fetch_model:
    input:
        lambda wildcards: own_files.of_model(scale.models[wildcards.model]),
    output:
        directory(str(layout.model("{model}"))),
    log:
        f"{LOGS}/fetch/{{model}}.log",
    wildcard_constraints:
        model=one_of(FETCHED),
    params:
        settings=lambda wildcards: settings("fetch_model", scale.models[wildcards.model]),
    shell:
        "dpg model fetch {wildcards.model} --out {output} > {log} 2>&1"
