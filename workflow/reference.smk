# The report of the kept results, for a reader who has run nothing: `make report SCALE=reference`.

import json
from pathlib import Path

REFERENCE = Path("results/reference/tiny")
SHOWN = Path("results/reference-report")

with open(REFERENCE / "study.json", encoding="utf-8") as file:
    record = json.load(file)
# What the captions say.
config |= {
    "scale": record["provenance"]["scale"],
    "seeds": record["provenance"]["seeds"],
    "run_times": record["run_times"],
}

PAGES = ["claims", "generations", "provenance"]
FIGURES = sorted(path.stem for path in REFERENCE.glob("*.png"))
TABLES = sorted(path.stem for path in REFERENCE.glob("table_*.csv"))
LOGS = SHOWN / "logs"


report: "report/workflow.rst"


rule all:
    input:
        [SHOWN / f"{name}.png" for name in FIGURES],
        [SHOWN / f"{name}.csv" for name in TABLES],
        [SHOWN / f"{name}.html" for name in PAGES],


rule figure:
    input:
        REFERENCE / "{name}.png",
    output:
        report(SHOWN / "{name}.png", caption="report/{name}.rst", category="Figures"),
    log:
        LOGS / "{name}.log",
    shell:
        "cp {input} {output} 2> {log}"


rule table:
    input:
        REFERENCE / "{name}.csv",
    output:
        report(SHOWN / "{name}.csv", caption="report/{name}.rst", category="Tables"),
    log:
        LOGS / "{name}.log",
    shell:
        "cp {input} {output} 2> {log}"


rule page:
    input:
        REFERENCE / "{name}.html",
    output:
        report(SHOWN / "{name}.html", caption="report/{name}.rst", category="{name}"),
    log:
        LOGS / "{name}.log",
    shell:
        "cp {input} {output} 2> {log}"
