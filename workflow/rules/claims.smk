# What the paper says, checked: Theorem 3.1 by enumeration, and every claim over the results.

from dpg.claims import inputs as claim_inputs


rule theorem_3_1:
    output:
        image=report(
            str(layout.figures / "theorem_3_1.png"),
            caption="../report/theorem_3_1.rst",
            category="Figures",
        ),
        vector=str(layout.figures / "theorem_3_1.pdf"),
        numbers=str(layout.figures / "theorem_3_1.csv"),
    log:
        f"{LOGS}/theorem_3_1.log",
    shell:
        "dpg theorem --out $(dirname {output.numbers}) > {log} 2>&1"


rule claims:
    input:
        [str(path) for path in claim_inputs(study, layout)],
    output:
        page=report(
            str(layout.claims / "claims.html"),
            caption="../report/claims.rst",
            category="Claims",
        ),
        record=str(layout.claims / "claims.json"),
        text=str(layout.claims / "claims.md"),
    log:
        f"{LOGS}/claims.log",
    params:
        settings=settings(scale),
    shell:
        "dpg claims --out $(dirname {output.record}) > {log} 2>&1"
