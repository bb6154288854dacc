# Evaluation: which language each validation rollout is in.


rule judge:
    input:
        rules.generate.output.rollouts,
    output:
        f"{RUN}/judged.parquet",
    log:
        LOGS + "/judge/{experiment}-{variant}-{seed}.log",
    params:
        settings=settings(scale.judge),
    shell:
        "dpg judge -c {CONFIG} --run $(dirname {input}) --out {output} > {log} 2>&1"
