# Checks of what the paper says: Theorem 3.1 by enumeration, and every claim over the results.


rule theorem_3_1:
    output:
        image=report(
            str(layout.figures / f"{THEOREM}.png"),
            caption=caption(THEOREM),
            category="Figures",
        ),
        vector=str(layout.figures / f"{THEOREM}.pdf"),
        numbers=str(layout.figures / f"{THEOREM}.csv"),
    log:
        f"{LOGS}/theorem_3_1.log",
    params:
        *revision("theorem"),
    shell:
        "dpg theorem --out $(dirname {output.numbers}) > {log} 2>&1"


rule claims:
    input:
        [str(path) for path in outputs["claims"].inputs],
    output:
        page=report(
            str(layout.claims / "claims.html"),
            caption=caption("claims"),
            category="Claims",
        ),
        record=str(layout.claims / "claims.json"),
        text=str(layout.claims / "claims.md"),
    log:
        f"{LOGS}/claims.log",
    params:
        settings=settings("claims", scale, *sweep_tables()),
    shell:
        "dpg claims --out $(dirname {output.record}) > {log} 2>&1"
