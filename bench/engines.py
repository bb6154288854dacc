"""Train the miniature's Spanish run with each engine, for some seeds, and draw all runs.

    make tiny ARGS="figure_4"        # makes the base models and texts, among others
    dpg environment trl
    dpg environment verl
    python -m bench.engines --seeds 0 1 2

The engines sample with different random numbers, so their runs differ. The differences between the
engines should be no larger than those between seeds. All settings are those of `lambada-es/adam` in
config/tiny.yaml. So the base models, prompts and their order, batches, the objective, the optimizer
and the reward code are the same.

It writes engines.{png,pdf,csv,md}. Finished runs are kept in --runs and not repeated. Unfinished
runs are resumed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from bench import RESULTS, ROOT, reports
from dpg import artifacts
from dpg.evaluation.judge import Judge
from dpg.evaluation.judge.offline import OfflineJudge
from dpg.figures import style
from dpg.findings.lab import language_curve
from dpg.run_folder import RunFolder
from dpg.study.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT, VARIANT = "lambada-es", "adam"
ENGINES: dict[str, dict[str, Any]] = {
    "jax": {"color": style.BLUE},
    "trl": {"color": style.GREEN, "linestyle": (0, (1, 1))},
    "verl": {"color": style.VERMILLION, "linestyle": (0, (4, 1.5))},
}


def scale_file(engine: str, seeds: list[int], folder: Path) -> Path:
    """Write config/tiny.yaml with this engine. How many texts are updated at a time is its own."""
    settings = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    settings |= {"engine": engine, "seeds": seeds}
    settings["defaults"]["generator"].pop("update_microbatch")
    path = folder / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "experiments.yaml").write_text((ROOT / "config" / "experiments.yaml").read_text())
    return path


def train(config: Path, seed: int, folder: RunFolder) -> None:
    """Carry out one run in a separate process, as the workflow does."""
    command = [sys.executable, "-m", "dpg", "generate", "-c", str(config)]
    command += ["--out", str(folder.path), "--experiment", EXPERIMENT, "--variant", VARIANT]
    subprocess.run([*command, "--seed", str(seed)], cwd=ROOT, check=True)


def curve(folder: RunFolder, engine: str, seed: int, judge: Judge) -> pd.DataFrame:
    """One row per validation: step, metric, Spanish share of the rollouts, engine, seed."""
    measured = language_curve(Run.open(folder.path), judge).rename(columns={"share": "spanish"})
    return measured[["step", "metric", "spanish"]].assign(engine=engine, seed=seed)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw both numbers over GRPO steps: the mean over seeds, and the band from least to most."""
    figure = style.new_figure(style.PAGE, 2.2)
    frame = frame.assign(spanish=100 * frame["spanish"])
    labels = {"spanish": "Responses in Spanish (%)", "metric": "Metric of the target"}
    for axes, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        style.curves(axes, frame, x="step", y=column, by="engine", styles=ENGINES)
        axes.set(xlabel="GRPO steps", ylabel=label)
    axes.legend(loc="lower right")
    return figure


def summary(frame: pd.DataFrame) -> str:
    """The last validation of every run, as a Markdown table."""
    last = frame[frame["step"] == frame["step"].max()].sort_values(["engine", "seed"])
    rows = [
        [str(row["engine"]), str(row["seed"]), f"{row['spanish']:.1%}", f"{row['metric']:.4f}"]
        for row in last.to_dict("records")
    ]
    return "\n".join(reports.table(["engine", "seed", "in Spanish", "metric"], rows)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "results" / "engines")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    tables, judge = [], OfflineJudge()
    for engine in ENGINES:
        config = scale_file(engine, arguments.seeds, arguments.runs)
        for seed in arguments.seeds:
            folder = RunFolder(arguments.runs.absolute() / engine / f"seed{seed}")
            if not folder.is_finished:
                train(config, seed, folder)
            tables.append(curve(folder, engine, seed, judge))
    frame = pd.concat(tables, ignore_index=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    style.save(draw(frame), frame, arguments.out / "engines")
    artifacts.write_text(arguments.out / "engines.md", summary(frame))
    print(summary(frame))


if __name__ == "__main__":
    main()
