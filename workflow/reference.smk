# The report of the kept results, for a reader who has run nothing: `make report SCALE=reference`.
# The environment variable DPG_REFERENCE names another folder that `dpg report keep` made.

import json
import os
from pathlib import Path

if workflow.config_settings.config or workflow.configfiles:
    raise WorkflowError(
        "--config and --configfile are not used here: set DPG_REFERENCE=FOLDER for another reference."
    )

REFERENCE = Path(os.environ.get("DPG_REFERENCE", "results/reference/tiny"))
SHOWN = Path("results/reference-report")

with open(REFERENCE / "study.json", encoding="utf-8") as file:
    record = json.load(file)
# What the captions say.
config |= {
    "scale": record["provenance"]["scale"],
    "seeds": record["provenance"]["seeds"],
    "run_times": record["run_times"],
}

CATEGORIES = {path.name: "Figures" for path in sorted(REFERENCE.glob("*.png"))}
CATEGORIES |= {path.name: "Tables" for path in sorted(REFERENCE.glob("table_*.csv"))}
CATEGORIES |= {f"{page}.html": page.title() for page in ("claims", "generations", "provenance")}


report: "report/workflow.rst"


rule all:
    input:
        [SHOWN / name for name in CATEGORIES],


for name, category in CATEGORIES.items():

    rule:
        name:
            name.split(".")[0]
        input:
            REFERENCE / name,
        output:
            report(
                SHOWN / name,
                caption=f"report/{name.split('.')[0]}.rst",
                category=category,
            ),
        log:
            SHOWN / "logs" / f"{name}.log",
        shell:
            "cp {input} {output} 2> {log}"
