# What the paper says, checked: Theorem 3.1 by enumeration, and every claim over the results.


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
