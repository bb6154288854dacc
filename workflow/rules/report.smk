# The report's own pages. The report itself is Snakemake's: `make report`.


rule report_pages:
    input:
        [str(path) for path in outputs["report"].inputs],
    output:
        generations=report(
            str(layout.report / "generations.html"),
            caption="../report/generations.rst",
            category="Generations",
        ),
        provenance=report(
            str(layout.report / "provenance.html"),
            caption="../report/provenance.rst",
            category="Provenance",
        ),
        runs=str(layout.report / "runs.csv"),
    log:
        f"{LOGS}/report.log",
    params:
        settings=settings("report", scale),
    shell:
        "dpg report pages --out $(dirname {output.runs}) > {log} 2>&1"
