# The report: one page that shows everything, and the pages and the table that `dpg report keep`
# keeps. `make report` adds Snakemake's own report as an appendix.


rule report_pages:
    input:
        [str(path) for path in outputs["report"].inputs],
    output:
        generations=report(
            str(layout.report / "generations.html"),
            caption=caption("generations"),
            category="Generations",
        ),
        provenance=report(
            str(layout.report / "provenance.html"),
            caption=caption("provenance"),
            category="Provenance",
        ),
        runs=str(layout.report / "runs.csv"),
    log:
        f"{LOGS}/report.log",
    params:
        settings=settings("report", scale),
    shell:
        "dpg report pages --out $(dirname {output.runs}) > {log} 2>&1"


rule report_page:
    input:
        [str(path) for path in outputs["page"].inputs],
    output:
        str(layout.page),
    log:
        f"{LOGS}/report_page.log",
    params:
        settings=settings("report", scale),
    shell:
        "dpg report page --out {output} > {log} 2>&1"
