"""`dpg judge` and `dpg perplexity`: the language of each rollout, and lm-eval's perplexities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import (
    Config,
    OptionalOut,
    Table,
    TargetName,
    Tasks,
    downstream_of,
    group,
    one_of,
    study_of,
)

perplexity_app = group("Measure perplexity with lm-eval (Table 1).")
GROUPS = {"perplexity": perplexity_app}


def judge(
    config: Config,
    run: Annotated[Path, typer.Option(help="A run folder with its validations' rollouts.")],
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print calls, tokens and cost; make no call.")
    ] = False,
    out: OptionalOut = None,
) -> None:
    """Decide which language each validation rollout is in (Figure 4, Appendix F).

    **Example:** `dpg judge -c config/tiny.yaml --run results/tiny/runs/lambada-es/adam/seed0`
    """
    from dpg.artifacts import read_table, write_table
    from dpg.evaluation.judge import build, judge_table, responses
    from dpg.provenance import stamp
    from dpg.run_folder import RunFolder

    study, layout = study_of(config)
    folder = RunFolder(run)
    chosen = build(study.scale.judge, cache=layout.judge_cache, calls=not estimate)
    rollouts = read_table(folder.rollouts)
    if estimate:
        typer.echo(chosen.estimate(responses(rollouts)))
        return
    write_table(out or folder.judged, judge_table(rollouts, chosen))
    stamp(out or folder.judged, "judge")


@perplexity_app.command()
def tasks(config: Config, passages: Table = None, out: OptionalOut = None) -> None:
    """Write the benchmark's validation and test splits as lm-eval tasks.

    **Example:** `dpg perplexity tasks -c config/tiny.yaml`
    """
    from dpg.artifacts import read_table
    from dpg.evaluation import downstream, perplexity
    from dpg.provenance import stamp
    from dpg.study import sources

    study, layout, _ = downstream_of(config)
    table = read_table(passages or layout.passages)
    wanted = table[table.language.isin(sources.languages(study))]
    names = perplexity.write_tasks(wanted, out or layout.tasks, downstream.SPLITS)
    stamp(out or layout.tasks, "perplexity_tasks")
    typer.echo(", ".join(names))


@perplexity_app.command()
def measure(
    config: Config, target: TargetName, tasks: Tasks = None, out: OptionalOut = None
) -> None:
    """Measure every model trained from a target with lm-eval, in one process; resumes.

    **Example:** `dpg perplexity measure -c config/tiny.yaml --target llama-base`
    """
    from dpg.evaluation import downstream
    from dpg.evaluation.perplexity import Harness
    from dpg.study import sources

    study, layout, settings = downstream_of(config)
    one_of("--target", target, settings.targets)
    downstream.measure(
        layout.model(target),
        {group: layout.trained(target, group) for group in sources.groups(study)},
        Harness(tasks or layout.tasks, settings.perplexity),
        scale=study.scale.scale,
        replay=getattr(settings.replay, "dataset", settings.replay.source),
        out=out or layout.perplexity(target),
    )


COMMANDS = (judge,)
