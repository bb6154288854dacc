# Figures and tables: one rule per figure, so that `snakemake figure_2` is a target. If a study
# lacks a figure's runs, its rule has no inputs, and its command says what it needs.

for figure in (*FIGURES, CURVES):

    rule:
        name:
            figure
        input:
            figure_inputs(figure),
        output:
            image=report(
                str(layout.figures / f"{figure}.png"),
                caption=caption(figure),
                category="Figures",
            ),
            vector=str(layout.figures / f"{figure}.pdf"),
            numbers=str(layout.figures / f"{figure}.csv"),
        log:
            f"{LOGS}/{figure}.log",
        priority: 1  # drawn as soon as its runs are done, before the next run starts
        localrule: True
        params:
            *revision("figures"),
            name=figure,
            runs=figure_arguments(figure),
        shell:
            "dpg figure {params.name} {params.runs} "
            "--out $(dirname {output.numbers}) > {log} 2>&1"


for table in TABLES:

    rule:
        name:
            table
        input:
            figure_inputs(table),
        output:
            numbers=report(
                str(layout.figures / f"{table}.csv"),
                caption=caption(table),
                category="Tables",
            ),
            text=str(layout.figures / f"{table}.md"),
            latex=str(layout.figures / f"{table}.tex"),
        log:
            f"{LOGS}/{table}.log",
        priority: 1  # drawn as soon as its runs are done, before the next run starts
        localrule: True
        params:
            *revision("figures"),
            name=table,
            runs=figure_arguments(table),
        shell:
            "dpg figure {params.name} {params.runs} "
            "--out $(dirname {output.numbers}) > {log} 2>&1"
