# Learning-rate sweeps for targets trained with SGD and for the naive reward (section 4). They are
# not part of the study: the chosen rates are in config/. `snakemake sweeps` repeats and draws them;
# for the languages it sweeps in Spanish only. `dpg report keep` keeps the table.


rule sweep:
    input:
        generator=lambda wildcards: layout.model(run_of_sweep(wildcards).generator.model),
        target=lambda wildcards: layout.model(run_of_sweep(wildcards).learner.model),
        articles=rules.articles.output,
        passages=rules.passages.output,
    output:
        str(layout.sweep("{experiment}", "{variant}").record),
    log:
        f"{LOGS}/sweep/{{experiment}}-{{variant}}.log",
    benchmark:
        f"{LOGS}/sweep/{{experiment}}-{{variant}}.tsv"
    resources:
        gpu=scale.needs.gpus,
        nodes=1,
        mem=f"{scale.needs.memory_gb:g}GB",
    params:
        settings=lambda wildcards: settings("sweep", run_of_sweep(wildcards), scale.sweep),
        seed=scale.seeds[0],
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "dpg sweep --experiment {wildcards.experiment} --variant {wildcards.variant} "
        "--seed {params.seed} --out {params.out} > {log} 2>&1"


rule sweeps:
    input:
        [layout.sweep(run.experiment, run.variant).record for run in SWEPT],
    output:
        image=str(layout.figures / "sweep.png"),
        vector=str(layout.figures / "sweep.pdf"),
        numbers=str(layout.figures / "sweep.csv"),
    log:
        f"{LOGS}/sweeps.log",
    shell:
        "dpg figure sweep {input} --out $(dirname {output.numbers}) > {log} 2>&1"
