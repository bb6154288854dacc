# Evaluation: which language each validation rollout is in.


rule judge:
    input:
        rules.generate.output.rollouts,
    output:
        f"{RUN}/judged.parquet",
    log:
        f"{LOGS}/judge/{{experiment}}-{{variant}}-{{seed}}.log",
    params:
        settings=settings(scale.judge),
    shell:
        "dpg judge --run $(dirname {input}) --out {output} > {log} 2>&1"
