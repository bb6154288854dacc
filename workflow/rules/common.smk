# The study, its paths, and which files belong together, for all chapters. Nothing is made here.

import sys
from pathlib import Path

from dpg import environments, machine
from dpg.artifacts import config_hash, without_nulls
from dpg.config import EXPERIMENTS_FILE, load
from dpg.errors import DpgError
from dpg.evaluation import sources
from dpg.figures import FIGURES, TABLES, plan
from dpg.layout import Layout
from dpg.text.wikipedia import WHEEL_FILENAME

# Snakemake merges every --configfile and --config into one dictionary, in which a key of one scale
# could leak into another. The file itself is read instead, so there must be exactly one.
if len(workflow.configfiles) > 1:
    raise WorkflowError("Give one --configfile: a scale is one file, and two are never merged.")
CONFIG = Path(workflow.configfiles[0] if workflow.configfiles else "config/paper.yaml")
try:
    study = load(CONFIG)
except DpgError as error:
    raise WorkflowError(str(error)) from None
if workflow.configfiles and set(config) - set(study.scale.model_fields_set):
    raise WorkflowError(f"--config is not used: copy {CONFIG}, change the copy, and give that.")

scale = study.scale
layout = Layout(scale.scale)
runs = {(run.experiment, run.variant, run.seed): run for run in study.runs}

TRAINED = [name for name, model in scale.models.items() if model.source == "trained"]
FETCHED = [name for name, model in scale.models.items() if model.source != "trained"]
LOGS = str(layout.folder / "logs")
SOURCES = str(layout.sources)
RUN = str(layout.run("{experiment}", "{variant}", "{seed}"))

# Commands are those of the environment that runs Snakemake, and all read this study's file. NPROC
# is what JAX takes for the number of cores: it gets as many as Snakemake gives the job threads.
# The tunable asks for large pages where there is glibc: page faults are a quarter of a step without.
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH" DPG_CONFIG="{CONFIG}" '
    'NPROC="$OMP_NUM_THREADS" GLIBC_TUNABLES=glibc.malloc.hugetlb=1; '
)


# A method has one rate for every T of an experiment; it is looked for at the longest.
SWEPT = [
    run
    for run in study.runs
    if run.rate_is_swept
    and run.learner.steps == run.validation_steps
    and run.seed == scale.seeds[0]
]


def one_of(names):
    """A wildcard constraint for these names; matches nothing where there is none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    experiment=one_of({run.experiment for run in study.runs}),
    variant=one_of({run.variant for run in study.runs}),
    seed=r"\d+",
    target=one_of(study.downstream.targets if study.downstream else []),
    group=one_of(sources.groups(study.runs)),


def settings(*parts):
    """A digest of what a job depends on; it runs again when this changes, and only then.

    A setting that is null or empty counts as absent, so that a new one, which no file sets yet,
    does not outdate what was made before it.
    """
    plain = [p.model_dump(mode="json") if hasattr(p, "model_dump") else p for p in parts]
    return config_hash({"settings": without_nulls(plain)})


def run_of(wildcards):
    return runs[wildcards.experiment, wildcards.variant, int(wildcards.seed)]


def run_of_sweep(wildcards):
    """The run whose rate is looked for, as it is configured."""
    return runs[wildcards.experiment, wildcards.variant, scale.seeds[0]]


def figure_files(name):
    return [str(layout.figures / f"{name}.{suffix}") for suffix in plan.suffixes(name)]


def packaged_reward_model(wildcards):
    """The model of an embedding or fastText baseline that takes none from the hub."""
    reward = run_of(wildcards).reward
    packaged = reward.kind in ("embedding", "fasttext") and reward.model is None
    return f"{SOURCES}/reward-models/{reward.kind}" if packaged else []


def engine_environments(wildcards):
    """What a generator run needs of other environments; a new one does not outdate the run."""
    names = engine_settings()
    if run_of(wildcards).learner.implementation == "easydel":
        names.append("easydel")
    return environment_records(names)


def corpus_environments():
    """What writing a corpus needs of other environments."""
    return environment_records(["vllm"] if study.downstream.corpus.engine == "vllm" else [])


def environment_records(names):
    names = [environments.for_gpus(name, scale.needs.gpus) for name in names]
    for name in names:
        environments.settle(name)
    return [ancient(str(environments.path_of(name) / environments.RECORD)) for name in names]


def engine_settings():
    """What a generator run depends on beside its own settings."""
    return [] if scale.engine == "jax" else [scale.engine]


def option(name, value):
    """A command's option, or nothing where it has no value."""
    return f"{name} {value}" if value else ""


def folder_of(run):
    return layout.run(run.experiment, run.variant, run.seed)


def figure_runs(name):
    """What the command that draws a figure is given."""
    if name == plan.DOWNSTREAM:
        return perplexities()
    return [folder_of(run) for run in plan.runs_of(name, study.runs)]


def figure_inputs(name):
    """What a figure is drawn from: its runs' logs, and the judge's tables where it shows them."""
    if name == plan.DOWNSTREAM:
        return perplexities()
    files = ["run.json", "metrics.jsonl"] + ["judged.parquet"] * plan.needs_judge(name)
    return [folder / file for folder in figure_runs(name) for file in files]


def downstream_settings(*keys):
    """A digest of these sections or values of the downstream settings."""
    parts = [getattr(study.downstream, key) for key in keys]
    return settings(*parts)


def one_gpu():
    """What a job of the downstream validation needs of them."""
    return min(1, scale.needs.gpus)


def untuned_generator():
    """The model that the generators of Table 1 start from."""
    return layout.model(sources.language_runs(study.runs)[0].generator.model)


def language_generator(wildcards):
    """A trained generator of Table 1, of the study's first seed."""
    names = (wildcards.experiment, wildcards.variant)
    return layout.run(*names, sources.language_runs(study.runs)[0].seed) / "generator"


def group_corpora(wildcards):
    """The corpora on which the models of a group are trained."""
    named = sources.corpora(study.runs, wildcards.group).values()
    return [layout.text_corpus(*names) / "corpus.json" for names in named]


def trained_groups(wildcards):
    """The records of every training from a target model."""
    groups = sources.groups(study.runs)
    folders = {group: layout.trained(wildcards.target, group) for group in groups}
    paths = [folder / "cpt.json" for folder in folders.values()]
    return paths + [folders[group] / "sft.json" for group in groups if group != sources.COMMON]


def perplexities():
    if study.downstream is None:
        return []
    return [layout.perplexity(target) for target in study.downstream.targets]


def check_machine():
    """Stop before the first job, with one message, where the machine cannot carry the scale."""
    scales = sorted(set(Path("config").glob("*.yaml")) - {EXPERIMENTS_FILE})
    try:
        machine.require(study, scales, elsewhere=workflow.non_local_exec)
    except DpgError as error:
        raise WorkflowError(str(error)) from None


# On a cluster these stay where Snakemake runs: they take seconds, or need the network, which the
# machines with the GPUs often lack. Figures and tables, too.
localrules:
    all,
    articles,
    base_models,
    campaigns,
    claims,
    fetch_model,
    judge,
    passages,
    perplexity_tasks,
    replay,
    report_pages,
    reward_model,
    sweeps,
    theorem_3_1,
    wikipedia_wheel,


# What captions say. No job has it as a parameter, since a run time must not outdate a figure.
config |= {"scale": scale.scale, "seeds": scale.seeds, "run_times": plan.run_times(study, layout)}


onstart:
    check_machine()
