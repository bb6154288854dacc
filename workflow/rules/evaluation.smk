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
