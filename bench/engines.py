"""Trains the miniature's `sixseven` run with both engines, over some seeds, and draws both.

    make tiny ARGS="figure_2"        # the base models and texts, among others
    dpg environment verl
    python bench/engines.py --seeds 0 1 2

The two engines sample with other random numbers, so a run of one is not a run of the other; what
the target model learns should be the same within seeds. All settings are those of `adam-T8` in
config/tiny.yaml but one: verl 0.5.0 has no falling learning rate, so both hold it at half of
tiny's, which is tiny's on average. Everything else is equal: base models, prompts and their order,
batches, the objective, the optimizer, the reward code.

Writes engines.{png,pdf,csv,md}. Finished runs are kept in --runs, and not made again; unfinished
ones go on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from dpg import artifacts
from dpg.figures import style

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
EXPERIMENT, VARIANT = "sixseven", "adam-T8"
ENGINES = {
    "jax": {"color": style.BLUE},
    "verl": {"color": style.VERMILLION, "linestyle": (0, (4, 1.5))},
}


def scale_file(engine: str, seeds: list[int], folder: Path) -> Path:
    """config/tiny.yaml with this engine and a rate that stays."""
    settings = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    generator = settings["experiments"][EXPERIMENT]["generator"]
    generator |= {"schedule": "constant", "learning_rate": generator["learning_rate"] / 2}
    settings |= {"engine": engine, "seeds": seeds}
    settings["defaults"]["generator"].pop("update_microbatch")
    path = folder / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "experiments.yaml").write_text((ROOT / "config" / "experiments.yaml").read_text())
    return path


def train(config: Path, seed: int, out: Path) -> None:
    """One run; in its own process, as the workflow has it."""
    command = [sys.executable, "-m", "dpg", "generate", "-c", str(config), "--out", str(out)]
    command += ["--experiment", EXPERIMENT, "--variant", VARIANT, "--seed", str(seed)]
    subprocess.run(command, cwd=ROOT, check=True)


def curves(out: Path, engine: str, seed: int) -> pd.DataFrame:
    """A row a validation: engine, seed, step, fraction of pixels right, metric."""
    lines = [x for x in artifacts.read_lines(out / "metrics.jsonl") if x["phase"] == "validation"]
    table = pd.DataFrame(lines)[["step", "pixels_right", "metric"]]
    return table.assign(engine=engine, seed=seed)


@style.styled
def draw(frame: pd.DataFrame):
    """Both numbers over GRPO steps: the mean over seeds, and the band from least to greatest."""
    figure = style.new_figure(style.PAGE, 2.2)
    frame = frame.assign(pixels=100 * frame["pixels_right"])
    labels = {"pixels": "Pixels right (%)", "metric": "Metric of the target"}
    for axes, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        style.curves(axes, frame, x="step", y=column, by="engine", styles=ENGINES)
        axes.set(xlabel="GRPO steps", ylabel=label)
    axes.legend(loc="lower right")
    return figure


def summary(frame: pd.DataFrame) -> str:
    """The last validation of every run, as a Markdown table."""
    last = frame[frame["step"] == frame["step"].max()].sort_values(["engine", "seed"])
    rows = [
        f"| {row.engine} | {row.seed} | {row.pixels_right:.1%} | {row.metric:.4f} |"
        for row in last.itertuples()
    ]
    head = ["| engine | seed | pixels right | metric |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "results" / "engines")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    tables = []
    for engine in ENGINES:
        config = scale_file(engine, arguments.seeds, arguments.runs)
        for seed in arguments.seeds:
            out = arguments.runs.absolute() / engine / f"seed{seed}"
            if not (out / "run.json").exists():
                train(config, seed, out)
            tables.append(curves(out, engine, seed))
    frame = pd.concat(tables, ignore_index=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    style.save(draw(frame), frame, arguments.out / "engines")
    (arguments.out / "engines.md").write_text(summary(frame))
    print(summary(frame))


if __name__ == "__main__":
    main()
