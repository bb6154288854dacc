# Generator runs: Algorithm 1, one job a run. A killed job goes on from its last checkpoint.


rule generate:
    input:
        generator=lambda wildcards: layout.model(run_of(wildcards).generator.model),
        target=lambda wildcards: layout.model(run_of(wildcards).learner.model),
        articles=rules.articles.output,
        passages=rules.passages.output,
    output:
        metrics=f"{RUN}/metrics.jsonl",
        rollouts=f"{RUN}/validation.parquet",
        generator=directory(f"{RUN}/generator"),
        record=f"{RUN}/run.json",
    log:
        LOGS + "/generate/{experiment}-{variant}-{seed}.log",
    params:
        settings=lambda wildcards: settings(run_of(wildcards)),
        out=lambda wildcards, output: Path(output.record).parent,
    resources:
        gpu=scale.needs.gpus,
    shell:
        "dpg generate -c {CONFIG} --experiment {wildcards.experiment} "
        "--variant {wildcards.variant} --seed {wildcards.seed} --generator {input.generator} "
        "--target {input.target} --articles {input.articles} --passages {input.passages} "
        "--out {params.out} > {log} 2>&1"
