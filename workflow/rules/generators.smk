# Generator runs: Algorithm 1, one job per run. A killed job goes on from its last checkpoint.


rule generate:
    input:
        generator=lambda wildcards: layout.model(run_of(wildcards).generator.model),
        target=lambda wildcards: layout.model(run_of(wildcards).learner.model),
        articles=rules.articles.output,
        passages=rules.passages.output,
        reward_model=reward_model_of,
        files=lambda wildcards: own_files.of_run(run_of(wildcards)),
        environments=engine_environments,
    output:
        metrics=str(RUN.metrics),
        rollouts=str(RUN.rollouts),
        generator=directory(str(RUN.generator)),
        record=str(RUN.record),
    log:
        f"{LOGS}/generate/{{experiment}}-{{variant}}-{{seed}}.log",
    benchmark:
        f"{LOGS}/generate/{{experiment}}-{{variant}}-{{seed}}.tsv"
    wildcard_constraints:
        experiment=experiment_of(OTHERS),
    resources:
        gpu=scale.needs.gpus * scale.needs.nodes,
        nodes=scale.needs.nodes,
        mem=f"{scale.needs.memory_gb:g}GB",
    params:
        settings=lambda wildcards: settings("generate", run_of(wildcards), *engine_settings()),
        out=lambda wildcards, output: Path(output.record).parent,
        reward_model=lambda wildcards, input: option("--reward-model", input.reward_model),
    shell:
        "dpg generate --experiment {wildcards.experiment} "
        "--variant {wildcards.variant} --seed {wildcards.seed} --generator {input.generator} "
        "--target {input.target} --articles {input.articles} --passages {input.passages} "
        "{params.reward_model} --out {params.out} > {log} 2>&1"


# A pattern metric has one more file: the decoded image of each validation.
use rule generate as generate_pattern with:
    output:
        metrics=str(RUN.metrics),
        rollouts=str(RUN.rollouts),
        pattern=str(RUN.pattern),
        generator=directory(str(RUN.generator)),
        record=str(RUN.record),
    wildcard_constraints:
        experiment=experiment_of(PATTERNS),
