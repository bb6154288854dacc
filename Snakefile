# The whole study as one graph of cached steps.
#
#   snakemake --cores all --configfile config/tiny.yaml               every figure and table
#   snakemake figure_2 --cores all --configfile config/tiny.yaml      one figure
#
# Without --configfile the scale is config/paper.yaml. `make help` lists shorter ways.

from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/generators.smk"
include: "workflow/rules/sweeps.smk"
include: "workflow/rules/evaluation.smk"


if study.downstream is not None:

    include: "workflow/rules/corpora.smk"
    include: "workflow/rules/training.smk"


include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/findings.smk"


rule all:
    default_target: True
    input:
        [[str(path) for path in outputs[name].files] for name in drawable(study)],
        rules.theorem_3_1.output,
        rules.claims.output,
        rules.report_pages.output,
        rules.report_page.output,
