# Evaluation: which language each validation rollout is in, and the benchmark as lm-eval tasks.


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


# Runs beside the study, which no figure and no claim reads: `snakemake extras`.
rule extras:
    input:
        [layout.run_of(run).record for run in study.extras],
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
        languages=sources.languages(study.runs),
    shell:
        "dpg perplexity tasks --passages {input} --out {output} > {log} 2>&1"
