"""The manifest of everything that a study makes: names, files and inputs.

The workflow's rules, `dpg status`, `dpg doctor`, the report and the ledger of claims all use it.
Importing this module loads no drawing library and no JAX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpg import artifacts
from dpg.config import LEARNED, PatternMetric, RunConfig, Study
from dpg.errors import DpgError
from dpg.quantities import duration
from dpg.rewards.latent_semantic import VECTORS
from dpg.run_folder import RunFolder
from dpg.study import sources
from dpg.study.layout import Layout

FIGURES = tuple(f"figure_{number}" for number in range(1, 8))
CURVES = "curves"
"""The figure of experiments that are not in the paper, such as those with a custom metric."""

TABLES = tuple(f"table_{number}" for number in range(1, 7))

SCANNED = "figure_1"
"""The figure of the QR code; it also shows the results of fresh samples of text."""

EXTRAS = "extras"
"""The figure of the runs beside a study; it is drawn only into a kept study."""

JUDGED = "figure_4"
"""The figure that shows the rollouts' languages."""

DOWNSTREAM = "table_1"
"""The table that is drawn from perplexities rather than from runs."""

THEOREM = "theorem_3_1"

GENERATIONS = {
    "table_2": ("sixseven", "adam"),
    "table_3": ("norm", "adam"),
    "table_4": ("lambada-es", "adam"),
    "table_5": ("lambada-es", "fasttext"),
    "table_6": ("uuid", "adam"),
}
"""Table of generations -> experiment and method of the runs that it shows (Appendix D)."""

COHERENT = ("sixseven", "norm")
"""The experiments whose rollouts, with Adam, the claims compare with the articles."""

STYLED = "lambada-es"
"""The experiment whose rollouts the claims compare with the articles and with stories."""

EXPERIMENTS = {
    "figure_1": ("qr",),
    "figure_2": ("sixseven", "norm"),
    "figure_3": ("sixseven",),
    "figure_4": ("lambada-de", "lambada-es", "lambada-fr", "lambada-it"),
    "figure_5": ("uuid",),
}
"""Figure -> the experiments that it shows."""

# The patterns that a QR scanner reads.
_CODES = ("qr", "rick_roll")
# The figures that show decoded images.
_IMAGES = ("figure_1", "figure_3")
# The diagrams of the two ways of batching: drawn without any run.
_DIAGRAMS = ("figure_6", "figure_7")


@dataclass(frozen=True)
class Output:
    """One thing that the workflow makes.

    Attributes:
        name: such as "figure_2", "sixseven/adam-T8/seed0" or "articles"; unique in its study.
        group: outputs of one kind: "texts", "models", an experiment, "fresh samples", "judged",
            "perplexities", "figures", "tables", "ledger", "report".
        step: the step that makes it, one of `dpg.revisions.HISTORY`.
        files: its files; the last one is written last.
        inputs: files that must exist first, for rules that take their inputs from here.
        arguments: arguments of the command that draws a figure or table.
        run: the run's configuration, for an output that belongs to one generator run.
        stamped: the path whose stamp says which code made it (`dpg.provenance.made_by`); None: the
            last of `files`.
    """

    name: str
    group: str
    step: str
    files: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    arguments: tuple[Path, ...] = ()
    run: RunConfig | None = None
    stamped: Path | None = None

    @property
    def maker(self) -> Path:
        """The path whose stamp says which code made it."""
        return self.stamped or self.files[-1]

    @property
    def is_there(self) -> bool:
        """Whether all of its files exist."""
        return all(path.exists() for path in self.files)


class Outputs:
    """The outputs of a study, in the order in which they are made.

    Args:
        study: the study.
        layout: where its files are.
    """

    def __init__(self, study: Study, layout: Layout):
        self._all = {output.name: output for output in _outputs(study, layout)}

    def __iter__(self) -> Iterator[Output]:
        return iter(self._all.values())

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def __getitem__(self, name: str) -> Output:
        """The output of this name.

        Raises:
            DpgError: the study does not make it.
        """
        if name not in self._all:
            raise DpgError(f"the study makes no '{name}'; it makes: {', '.join(self._all)}")
        return self._all[name]

    def group(self, name: str) -> list[Output]:
        """The outputs of one kind."""
        return [output for output in self if output.group == name]


def _outputs(study: Study, layout: Layout) -> Iterator[Output]:
    yield from _texts_and_models(study, layout)
    for run in study.runs:
        made = layout.run_of(run)
        pattern = (made.pattern,) if run.metric.kind == "pattern" else ()
        files = (*pattern, *made.outputs)
        yield Output(run.path, run.experiment, "generate", files, run=run)
    for run in coded(study.runs):
        files, inputs = (layout.run_of(run).fresh_samples,), (layout.run_of(run).record,)
        name = f"fresh_samples/{run.path}"
        yield Output(name, "fresh samples", "fresh_samples", files, inputs, run=run)
    for run in runs_of(JUDGED, study):
        files, inputs = (layout.run_of(run).judged,), (layout.run_of(run).rollouts,)
        yield Output(f"judged/{run.path}", "judged", "judge", files, inputs, run=run)
    if study.downstream is not None:
        for target in study.downstream.targets:
            path = layout.perplexity(target)
            yield Output(f"perplexity/{target}", "perplexities", "perplexity", (path,))
    for name in (*FIGURES, CURVES, *TABLES):
        if name in drawable(study):
            yield _drawn(name, study, layout)
    theorem = tuple(layout.figures / f"{THEOREM}.{suffix}" for suffix in suffixes(THEOREM))
    yield Output(THEOREM, "figures", "theorem", theorem)
    ledger = tuple(layout.claims / f"claims.{kind}" for kind in ("json", "md", "html"))
    yield Output("claims", "ledger", "claims", ledger, tuple(_evidence(study, layout)))
    pages = _report(study, layout)
    yield pages
    yield _page(study, layout, [*pages.files, *ledger, *theorem])


def _texts_and_models(study: Study, layout: Layout) -> Iterator[Output]:
    for step, path in {"articles": layout.articles, "passages": layout.passages}.items():
        yield Output(step, "texts", step, (path,))
    for name, model in study.scale.models.items():
        step = {"trained": "pretrain", "finished": "finish"}.get(model.source, "fetch_model")
        folder = layout.model(name)
        yield Output(f"models/{name}", "models", step, (folder / "config.json",), stamped=folder)
    if any(run.reward.model == LEARNED for run in study.runs):
        file, folder = layout.embedding / VECTORS, layout.embedding
        yield Output("reward-models/embedding", "models", "embedding", (file,), stamped=folder)


def _drawn(name: str, study: Study, layout: Layout) -> Output:
    group = "tables" if name in TABLES else "figures"
    files = tuple(layout.figures / f"{name}.{suffix}" for suffix in suffixes(name))
    if name == DOWNSTREAM:
        assert study.downstream is not None  # `drawable` leaves it out otherwise
        given = tuple(layout.perplexity(target) for target in study.downstream.targets)
        return Output(name, group, "figures", files, given, given)
    runs = runs_of(name, study)
    inputs = [path for run in runs for path in _read_of(name, run, layout.run_of(run))]
    arguments = tuple(layout.run_of(run).path for run in runs)
    return Output(name, group, "figures", files, tuple(inputs), arguments)


def _read_of(name: str, run: RunConfig, folder: RunFolder) -> list[Path]:
    """The files of a run that a figure reads."""
    files = [folder.record, folder.metrics]
    if name == JUDGED:
        files.append(folder.judged)
    if name in _IMAGES:
        files.append(folder.pattern)
    if name == SCANNED and coded([run]):
        files.append(folder.fresh_samples)
    return files


def _evidence(study: Study, layout: Layout) -> Iterator[Path]:
    """What the claims of a study are checked against."""
    yield layout.figures / f"{THEOREM}.csv"
    for run in study.runs:
        folder = layout.run_of(run)
        yield folder.record
        yield folder.metrics
        if run.experiment.startswith("lambada-"):
            yield folder.judged
        if run.experiment == "uuid" or _is_read(run):
            yield folder.rollouts
    if any(_is_read(run) or run.experiment == STYLED for run in study.runs):
        yield layout.articles
    if any(run.experiment == STYLED for run in study.runs):
        yield layout.passages
        if study.downstream is not None:
            yield layout.figures / f"{DOWNSTREAM}.csv"
            yield from (layout.perplexity(target) for target in study.downstream.targets)


def _is_read(run: RunConfig) -> bool:
    """Whether the claims on coherence read the run's rollouts."""
    return run.experiment in COHERENT and _method(run) == "adam"


def _report(study: Study, layout: Layout) -> Output:
    folders = [layout.run_of(run) for run in study.runs]
    inputs = tuple(path for folder in folders for path in (folder.record, folder.rollouts))
    names = ("generations.html", "provenance.html", "runs.csv")
    files = tuple(layout.report / name for name in names)
    return Output("report", "report", "report", files, inputs)


def _page(study: Study, layout: Layout, more: Iterable[Path]) -> Output:
    """The report, made from every figure and table and from these further files."""
    drawn = [path for name in drawable(study) for path in _drawn(name, study, layout).files]
    return Output("page", "report", "report", (layout.page,), (*drawn, *more))


def coded(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs whose pattern is a QR code: fresh samples of their text are scanned."""
    return [
        run
        for run in runs
        if isinstance(run.metric, PatternMetric) and run.metric.pattern in _CODES
    ]


def runs_of(name: str, study: Study) -> list[RunConfig]:
    """The runs of the study that a figure or table shows, in the study's order."""
    runs = study.runs
    if name == DOWNSTREAM:
        return sources.language_runs(study)
    if name == CURVES:
        of_the_paper = {"qr", *(one for group in EXPERIMENTS.values() for one in group)}
        return [run for run in runs if run.experiment not in of_the_paper]
    if name in GENERATIONS:
        return [run for run in runs if (run.experiment, _method(run)) == GENERATIONS[name]]
    return [run for run in runs if run.experiment in EXPERIMENTS.get(name, ())]


def _method(run: RunConfig) -> str:
    return run.variant.split("-")[0]


def drawable(study: Study) -> list[str]:
    """The figures and tables for which the study has the runs."""
    names = (*FIGURES, CURVES, *TABLES)
    found = [name for name in names if name in _DIAGRAMS or runs_of(name, study)]
    return [name for name in found if name != DOWNSTREAM or study.downstream is not None]


def suffixes(name: str) -> tuple[str, ...]:
    """The suffixes of a figure's or table's files; a report shows the first."""
    return ("csv", "md", "tex") if name in TABLES else ("png", "pdf", "csv")


def run_time(records: Iterable[Path]) -> str:
    """The total wall time of runs, such as "1 h 5 min", and how many are not yet done.

    Args:
        records: paths of the runs' records; an unfinished run has none.
    """
    records = list(records)
    done = [artifacts.read_json(path)["wall_seconds"] for path in records if path.exists()]
    time = duration(sum(done))
    unfinished = len(records) - len(done)
    return f"{time} ({unfinished} of {len(records)} runs not yet done)" if unfinished else time


def run_times(study: Study, layout: Layout) -> dict[str, str]:
    """Figure or table -> total wall time of its runs that are done."""
    return {
        name: run_time(layout.run_of(run).record for run in runs_of(name, study))
        for name in drawable(study)
    }
