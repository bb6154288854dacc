# For all other files: the study, its paths, and which files belong together. No rule is here.

import sys
from pathlib import Path

from dpg import environments, own_files
from dpg.claims.evidence import Results
from dpg.config import load, scale_files
from dpg.digests import of_file, of_settings, without_nulls
from dpg.doctor import requirements
from dpg.errors import DpgError
from dpg.findings import BASES, READS_RUNS, possible
from dpg.report import captions
from dpg.revisions import in_digest
from dpg.study import sources
from dpg.study.layout import Layout
from dpg.study.outputs import (
    CURVES,
    FIGURES,
    TABLES,
    THEOREM,
    Outputs,
    coded,
    drawable,
    run_times,
)
from dpg.study.sweeps import swept
from dpg.text.wikipedia import WHEEL_FILENAME

# Snakemake merges every --configfile and --config into one dictionary, in which a key of one scale
# could leak into another. The file itself is read instead, so there must be exactly one.
if len(workflow.configfiles) > 1:
    raise WorkflowError("Give one --configfile: a scale is one file, and two are never merged.")
CONFIG = Path(workflow.configfiles[0] if workflow.configfiles else "config/paper.yaml")
if workflow.config_settings.config:
    raise WorkflowError(
        f"--config is not used: found {', '.join(workflow.config_settings.config)}. Copy {CONFIG}, "
        "change the copy, and give it with --configfile (for more seeds: make tiny SEEDS=3)."
    )
try:
    study = load(CONFIG)
except DpgError as error:
    raise WorkflowError(str(error)) from None

scale = study.scale
layout = Layout(scale.scale)
outputs = Outputs(study, layout)
runs = {(run.experiment, run.variant, run.seed): run for run in study.every_run}

PATTERNS = [run for run in study.every_run if run.metric.kind == "pattern"]
OTHERS = [run for run in study.every_run if run.metric.kind != "pattern"]
CODES = coded(study.every_run)
TRAINED = [name for name, model in scale.models.items() if model.source == "trained"]
FINISHED = [name for name, model in scale.models.items() if model.source == "finished"]
FETCHED = [name for name in scale.models if name not in (*TRAINED, *FINISHED)]
LOGS = str(layout.folder / "logs")
SOURCES = str(layout.sources)
RUN = layout.run("{experiment}", "{variant}", "{seed}")

# Commands come from the environment that runs Snakemake, and all read this study's file. JAX takes
# NPROC as the number of cores; it is the job's number of threads. The tunable makes glibc use large
# pages: without them page faults take a quarter of a step.
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH" DPG_CONFIG="{CONFIG}" '
    'NPROC="$OMP_NUM_THREADS" GLIBC_TUNABLES=glibc.malloc.hugetlb=1; '
)


SWEPT = swept(study)


def one_of(names):
    """A wildcard constraint for these names; matches nothing if there are none."""
    return "|".join(names) or "(?!)"


def experiment_of(runs):
    """A constraint for the wildcard `experiment`: that of one of these runs, before its variant.

    One experiment can have a run with a pattern metric and, under `extras`, a run with another.
    """
    return one_of({f"{run.experiment}(?=/{run.variant}/)" for run in runs})


wildcard_constraints:
    experiment=one_of({experiment for experiment, _, _ in runs}),
    variant=one_of({variant for _, variant, _ in runs}),
    seed=r"\d+",
    target=one_of(study.downstream.targets if study.downstream else []),
    group=one_of(sources.groups(study)),


def settings(step, *parts):
    """A digest of what a job depends on; it runs again when this changes, and only then.

    The step's revision is part of it. A setting that is null or empty counts as absent. So a new
    setting, which no file sets yet, does not make earlier results out of date.
    """
    plain = [p.model_dump(mode="json") if hasattr(p, "model_dump") else p for p in parts]
    return of_settings({"settings": without_nulls(plain), **in_digest(step)})


def tokenizer_settings():
    """What the tokenizer of the tiny models depends on."""
    recipe = scale.pretraining
    return [] if recipe is None else [recipe.vocab_size, recipe.tokenizer_characters]


def revision(step):
    """What a step without settings depends on: its revision, or nothing for the first one."""
    return list(in_digest(step).values())


def run_of(wildcards):
    return runs[wildcards.experiment, wildcards.variant, int(wildcards.seed)]


def run_of_sweep(wildcards):
    """The configured run whose learning rate is swept."""
    return runs[wildcards.experiment, wildcards.variant, scale.seeds[0]]


def finding_inputs(name):
    """The models, texts and finished runs that a finding starts from."""
    pair = BASES[name](study)
    models = {model for run in pair for model in (run.generator.model, run.learner.model)}
    records = [layout.run_of(run).record for run in pair if name in READS_RUNS]
    return [layout.articles, layout.passages, *map(layout.model, sorted(models)), *records]


def finding_settings(name):
    """A digest of the two runs that a finding starts from."""
    return settings("findings", *BASES[name](study))


def reward_model_of(wildcards):
    """The model of an embedding or fastText baseline, or nothing if the run needs none."""
    path = layout.reward_model_of(run_of(wildcards))
    return [] if path is None else str(path)


def engine_environments(wildcards):
    """The other environments that a generator run needs; a new one does not outdate the run."""
    names = engine_settings()
    if run_of(wildcards).learner.implementation == "easydel":
        names.append("easydel")
    return environment_records(names)


def corpus_environments():
    """The other environments that writing a corpus needs."""
    return environment_records(["vllm"] if study.downstream.corpus.engine == "vllm" else [])


def environment_records(names):
    names = [environments.for_gpus(name, scale.needs.gpus) for name in names]
    # `ancient`: a folder's name has the digest of its lock, so its age does not matter.
    return [ancient(str(environments.path_of(name) / environments.RECORD)) for name in names]


def engine_settings():
    """What a generator run depends on in addition to its own settings."""
    return [] if scale.engine == "jax" else [scale.engine]


def caption(name):
    """The file of a caption in Snakemake's own report."""
    return str(captions.file_of(name))


def option(name, value):
    """A command's option, or nothing if it has no value."""
    return f"{name} {value}" if value else ""


def figure_inputs(name):
    """The files that a figure is drawn from; none if the study lacks its runs."""
    return [str(path) for path in outputs[name].inputs] if name in outputs else []


def figure_arguments(name):
    """The arguments of the command that draws a figure."""
    return list(outputs[name].arguments) if name in outputs else []


def sweep_tables():
    """Digests of the tables of swept learning rates that exist, which the ledger reads.

    They are no inputs, since an input would start the sweeps, which take hours.
    """
    return [of_file(path) for path in Results(study, layout).sweeps if path.exists()]


def downstream_settings(step, *keys):
    """A digest of these sections or values of the downstream settings."""
    parts = [getattr(study.downstream, key) for key in keys]
    return settings(step, *parts)


def one_gpu():
    """The number of GPUs for a job of the downstream validation."""
    return min(1, scale.needs.gpus)


def untuned_settings():
    """What the untuned generator's text depends on, in addition to `corpus` and `seed`.

    A trained generator's text needs none of this: its run is made again if one of these changes.
    """
    run = sources.language_runs(study)[0]
    sizes = ("prompt_tokens", "response_tokens", "min_response_tokens")
    return [run.prompt_style, {name: getattr(run.generator, name) for name in sizes}]


def replay_settings():
    """What replay text depends on; seed 0 adds nothing, so that earlier results stay valid."""
    downstream = study.downstream
    seed = [downstream.seed] if downstream.seed else []
    return [downstream.replay, downstream.cpt.tokens, *seed]


def untuned_generator():
    """The model that the generators of Table 1 start from."""
    return layout.model(sources.language_runs(study)[0].generator.model)


def language_generator(wildcards):
    """A trained generator of Table 1, of the study's first seed."""
    names = (wildcards.experiment, wildcards.variant)
    return layout.run(*names, sources.language_runs(study)[0].seed).generator


def group_corpora(wildcards):
    """The corpora on which the models of a group are trained."""
    named = sources.corpora(study, wildcards.group).values()
    return [layout.text_corpus(*names) / "corpus.json" for names in named]


def trained_groups(wildcards):
    """The records of every training from a target model."""
    groups = sources.groups(study)
    folders = {group: layout.trained(wildcards.target, group) for group in groups}
    paths = [folder / "cpt.json" for folder in folders.values()]
    return paths + [folders[group] / "sft.json" for group in groups if group != sources.COMMON]


def check_machine():
    """Stop before the first job, with one message, if the machine cannot run the scale."""
    try:
        requirements.require(study, scale_files(), elsewhere=workflow.non_local_exec)
    except DpgError as error:
        raise WorkflowError(str(error)) from None


def say_what_is_missing():
    """Print what would stop a real run; a dry run itself always works.

    A dry run does not know whether a profile would send the jobs to other machines.
    """
    for line in requirements.missing(study.scale):
        print(
            f"this machine cannot run scale '{study.scale.scale}': {line} (a machine that a profile"
            " sends the jobs to may have it)",
            file=sys.stderr,
        )


# Read from the command line: Snakemake marks a dry run only after it has read this file.
if {"-n", "-np", "--dry-run", "--dryrun"} & set(sys.argv):
    say_what_is_missing()


# On a cluster these rules run where Snakemake runs, like figures and tables. They take seconds, or
# need a network, which machines with GPUs often lack.
localrules:
    all,
    articles,
    base_models,
    campaigns,
    claims,
    environment,
    extras,
    fetch_model,
    findings,
    judge,
    passages,
    perplexity_tasks,
    replay,
    report_page,
    report_pages,
    reward_model,
    sweeps,
    theorem_3_1,
    wikipedia_wheel,


# Values for captions. They are no parameters of jobs, since a run time must not outdate a figure.
config |= {"scale": scale.scale, "seeds": study.all_seeds, "run_times": run_times(study, layout)}


onstart:
    check_machine()
