# Figures and tables: each a target by its own name, drawn from run directories.


rule figure:
    input:
        figure_inputs,
    output:
        expand(
            str(layout.figures / "{{figure}}.{suffix}"), suffix=plan.suffixes("figure_1")
        ),
    log:
        LOGS + "/{figure}.log",
    wildcard_constraints:
        figure=one_of(FIGURES),
    params:
        runs=lambda wildcards: [
            folder_of(run) for run in plan.runs_of(wildcards.figure, study.runs)
        ],
    shell:
        "dpg figure {wildcards.figure} {params.runs} --out $(dirname {output[0]}) > {log} 2>&1"


use rule figure as table with:
    output:
        expand(
            str(layout.figures / "{{figure}}.{suffix}"), suffix=plan.suffixes("table_2")
        ),
    wildcard_constraints:
        figure=one_of(TABLES),


# `snakemake figure_2` is a target of its own.
for target in FIGURES + TABLES:

    rule:
        name:
            target
        input:
            figure_files(target),
