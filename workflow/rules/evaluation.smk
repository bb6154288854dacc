# Evaluation: the language of each validation rollout, whether a QR code scans from fresh samples of
# text, and the benchmark as lm-eval tasks.


rule judge:
    input:
        str(RUN.rollouts),
    output:
        str(RUN.judged),
    log:
        f"{LOGS}/judge/{{experiment}}-{{variant}}-{{seed}}.log",
    params:
        settings=settings("judge", scale.judge),
    shell:
        "dpg judge --run $(dirname {input}) --out {output} > {log} 2>&1"


# Tests whether a code that scans was luck: samples other answers to the same unseen prompts several
# times, and trains a target on each sample.
rule fresh_samples:
    input:
        record=str(RUN.record),
        generator=str(RUN.generator),
        target=lambda wildcards: layout.model(run_of(wildcards).learner.model),
        articles=rules.articles.output,
    output:
        str(RUN.fresh_samples),
    log:
        f"{LOGS}/fresh_samples/{{experiment}}-{{variant}}-{{seed}}.log",
    wildcard_constraints:
        experiment=experiment_of(CODES),
    resources:
        gpu=one_gpu(),
        nodes=1,
        mem=f"{scale.needs.memory_gb:g}GB",
    params:
        *revision("fresh_samples"),
    shell:
        "dpg fresh-samples --experiment {wildcards.experiment} --variant {wildcards.variant} "
        "--seed {wildcards.seed} --target {input.target} --articles {input.articles} "
        "--out $(dirname {output}) > {log} 2>&1"


# Runs beside the study, which no figure and no claim reads: `snakemake extras`.
rule extras:
    input:
        [layout.run_of(run).record for run in study.extras],
        [layout.run_of(run).fresh_samples for run in coded(study.extras)],
        [layout.run_of(run).judged for run in study.extras if run.metric.kind == "language"],


rule perplexity_tasks:
    input:
        rules.passages.output,
    output:
        directory(str(layout.tasks)),
    log:
        f"{LOGS}/perplexity_tasks.log",
    params:
        *revision("perplexity_tasks"),
        languages=sources.languages(study),
    shell:
        "dpg perplexity tasks --passages {input} --out {output} > {log} 2>&1"
