# Figures and tables: each a target by its own name, drawn from run directories.


rule figure:
    input:
        figure_inputs,
    output:
        image=report(
            str(layout.figures / "{figure}.png"),
            caption="../report/{figure}.rst",
            category="Figures",
        ),
        vector=str(layout.figures / "{figure}.pdf"),
        numbers=str(layout.figures / "{figure}.csv"),
    log:
        f"{LOGS}/{{figure}}.log",
    wildcard_constraints:
        figure=one_of(FIGURES),
    params:
        runs=figure_runs,
    shell:
        "dpg figure {wildcards.figure} {params.runs} --out $(dirname {output.numbers}) > {log} 2>&1"


use rule figure as table with:
    output:
        numbers=report(
            str(layout.figures / "{figure}.csv"),
            caption="../report/{figure}.rst",
            category="Tables",
        ),
        text=str(layout.figures / "{figure}.md"),
        latex=str(layout.figures / "{figure}.tex"),
    wildcard_constraints:
        figure=one_of(TABLES),


# `snakemake figure_2` is a target of its own.
for target in FIGURES + TABLES:

    rule:
        name:
            target
        input:
            figure_files(target),
