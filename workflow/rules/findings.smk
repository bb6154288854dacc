# Small controlled experiments that explain a result. They are not part of the study:
# `snakemake findings` makes them, and docs/findings.md is their page (`make findings`).

for finding in possible(study):

    rule:
        name:
            f"finding_{finding}"
        input:
            finding_inputs(finding),
        output:
            image=str(layout.findings / f"{finding}.png"),
            vector=str(layout.findings / f"{finding}.pdf"),
            numbers=str(layout.findings / f"{finding}.csv"),
            record=str(layout.findings / f"{finding}.json"),
        log:
            f"{LOGS}/findings/{finding}.log",
        benchmark:
            f"{LOGS}/findings/{finding}.tsv"
        resources:
            gpu=scale.needs.gpus,
            nodes=1,
            mem=f"{scale.needs.memory_gb:g}GB",
        params:
            settings=finding_settings(finding),
            name=finding,
        shell:
            "dpg findings make {params.name} --out $(dirname {output.record}) > {log} 2>&1"


rule findings:
    input:
        [layout.findings / f"{finding}.json" for finding in possible(study)],
    output:
        str(layout.findings / "findings.md"),
    log:
        f"{LOGS}/findings.log",
    params:
        *revision("findings"),
    shell:
        "dpg findings page $(dirname {output}) > {log} 2>&1"
