# Corpora (Appendix C): text for continued pre-training. A killed job goes on after its last shard.


rule replay:
    input:
        wheel=rules.wikipedia_wheel.output if study.downstream.replay.source == "wheel" else [],
        files=own_files.of_text(study.downstream.replay),
        articles=rules.articles.output,
        tokenizer=layout.model(study.downstream.targets[0]),
    output:
        str(layout.text_corpus("replay") / "corpus.json"),
    log:
        f"{LOGS}/corpora/replay.log",
    benchmark:
        f"{LOGS}/corpora/replay.tsv"
    params:
        settings=settings("replay", *replay_settings()),
        wheel=lambda wildcards, input: option("--wheel", input.wheel),
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg corpus replay {params.wheel} --articles {input.articles} "
        "--tokenizer {input.tokenizer} --out {params.out} > {log} 2>&1"


rule untuned_corpus:
    input:
        generator=untuned_generator(),
        articles=rules.articles.output,
        environments=corpus_environments(),
    output:
        str(layout.text_corpus("untuned") / "corpus.json"),
    log:
        f"{LOGS}/corpora/untuned.log",
    benchmark:
        f"{LOGS}/corpora/untuned.tsv"
    resources:
        gpu=one_gpu(),
    params:
        settings=settings(
            "rollouts", study.downstream.corpus, study.downstream.seed, *untuned_settings()
        ),
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg corpus rollouts --generator {input.generator} --articles {input.articles} "
        "--out {params.out} > {log} 2>&1"


rule generator_corpus:
    input:
        generator=language_generator,
        articles=rules.articles.output,
        environments=corpus_environments(),
    output:
        str(layout.text_corpus("{experiment}", "{variant}") / "corpus.json"),
    log:
        f"{LOGS}/corpora/{{experiment}}-{{variant}}.log",
    benchmark:
        f"{LOGS}/corpora/{{experiment}}-{{variant}}.tsv"
    resources:
        gpu=one_gpu(),
    params:
        settings=downstream_settings("rollouts", "corpus", "seed"),
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg corpus rollouts --experiment {wildcards.experiment} --variant {wildcards.variant} "
        "--generator {input.generator} --articles {input.articles} --out {params.out} > {log} 2>&1"
