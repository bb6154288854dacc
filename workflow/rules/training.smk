# Training in PyTorch (Appendix C): one process per target and group trains several models. Finished
# models are not trained again. A killed job goes on from its last checkpoint.


rule continue_pretraining:
    input:
        target=lambda wildcards: layout.model(wildcards.target),
        generator=untuned_generator(),
        replay=rules.replay.output,
        corpora=group_corpora,
    output:
        str(layout.trained("{target}", "{group}") / "cpt.json"),
    log:
        f"{LOGS}/cpt/{{target}}-{{group}}.log",
    benchmark:
        f"{LOGS}/cpt/{{target}}-{{group}}.tsv"
    resources:
        gpu=one_gpu(),
    params:
        settings=downstream_settings("continue_pretraining", "cpt", "seed"),
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg train cpt --target {wildcards.target} --group {wildcards.group} "
        "--out {params.out} > {log} 2>&1"


rule fine_tune:
    input:
        target=lambda wildcards: layout.model(wildcards.target),
        passages=rules.passages.output,
        tasks=rules.perplexity_tasks.output,
    output:
        str(layout.trained("{target}", "{group}") / "sft.json"),
    log:
        f"{LOGS}/sft/{{target}}-{{group}}.log",
    benchmark:
        f"{LOGS}/sft/{{target}}-{{group}}.tsv"
    resources:
        gpu=one_gpu(),
    params:
        settings=downstream_settings("fine_tune", "sft", "perplexity", "seed"),
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg train sft --target {wildcards.target} --language {wildcards.group} "
        "--passages {input.passages} --tasks {input.tasks} --out {params.out} > {log} 2>&1"


rule perplexity:
    input:
        target=lambda wildcards: layout.model(wildcards.target),
        trained=trained_groups,
        tasks=rules.perplexity_tasks.output,
    output:
        str(layout.perplexity("{target}")),
    log:
        f"{LOGS}/perplexity/{{target}}.log",
    benchmark:
        f"{LOGS}/perplexity/{{target}}.tsv"
    resources:
        gpu=one_gpu(),
    params:
        settings=downstream_settings("perplexity", "perplexity"),
    shell:
        "dpg perplexity measure --target {wildcards.target} --tasks {input.tasks} "
        "--out {output} > {log} 2>&1"
