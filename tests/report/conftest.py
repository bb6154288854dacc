"""A finished study of `config/tiny.yaml`, as small as a study can be, and a stopped run."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.provenance import RunRecord, run_record
from dpg.study.layout import Layout
from dpg.targets.metric import pattern_of

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "en": "The cat sat on the mat and looked at the old man in the garden.",
    "es": "El gato se sentó en la casa y miró al viejo hombre que estaba en el jardín.",
}


def write_run(folder, run):
    """Write the files of a generator run with two validations: before training and at the end."""
    steps = [0, run.generator.grpo_steps]
    lines = [{"step": s, "phase": "validation", "metric": -3.0 + s / 1000} for s in steps]
    if run.experiment == "uuid":
        lines = [line | {"exact": 0.5, "soft": 0.75} for line in lines]
    with artifacts.JsonLines.resume(folder.metrics, None) as log:
        for line in lines:
            log.append(line)
    rows = [
        {
            "step": step,
            "row": row,
            "article": f"article-{row}",
            "prompt": f"Prompt <{row}>",
            "response": f"{run.variant} & step {step}, row {row}",
            "tokens": [row, step],
        }
        for step in steps
        for row in range(5)
    ]
    artifacts.write_table(folder.rollouts, pd.DataFrame(rows))
    names = {"scale": run.scale, "experiment": run.experiment, "variant": run.variant}
    config = run.model_dump(mode="json")
    with RunRecord(folder.record, config, run.seed, step="generate", **names):
        pass


def stopped_run(folder, run, *, began=True):
    """What a run leaves in its state when it is stopped in its ninth step."""
    state = folder.state
    artifacts.write_json(state.path / "settings.json", {"run": run.model_dump(mode="json")})
    pattern = pattern_of(run.metric)
    more = {} if pattern is None else {"pixels_right": 1.0}
    if run.experiment == "uuid":
        more = {"exact": 0.5, "soft": 0.75}
    with artifacts.JsonLines.resume(state.metrics, None) as log:
        for step in range(9):
            if step % 4 == 0:
                line = {"step": step, "phase": "validation", "metric": -3.0 + step / 10}
                log.append(line | more)
            if step < 8:
                log.append({"step": step, "phase": "train", "metric": -3.0})
    for step in (0, 4):  # of the third validation, the rollouts were not written any more
        rows = [
            {"step": step, "row": row, "article": f"a{row}", "prompt": f"Prompt {row}",
             "response": TEXTS["es" if 4 * row < step else "en"], "tokens": [row, step, 3]}
            for row in range(4)
        ]  # fmt: skip
        artifacts.write_table(state.validation(step), pd.DataFrame(rows))
        if pattern is not None:
            artifacts.write_json(state.image(step), pattern.tolist())
    if began:
        record = run_record({}, 0, step="generate", device={"kind": "A card", "count": 1})
        artifacts.write_json(state.began, record)
        artifacts.write_json(state.stopped, {"why": "its time limit"})


@pytest.fixture(scope="session")
def stop():
    """The function `stopped_run`."""
    return stopped_run


@pytest.fixture(scope="session")
def finish():
    """The function `write_run`."""
    return write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """`study`, its `layout`, and finished runs of two experiments; tests must not change them."""
    study = config.load(ROOT / "config" / "tiny.yaml")
    layout = Layout("tiny", tmp_path_factory.mktemp("results"))
    for run in study.runs:
        if run.experiment in ("lambada-es", "uuid"):
            write_run(layout.run_of(run), run)
    layout.figures.mkdir(parents=True)
    (layout.figures / "figure_5.png").write_bytes(b"a picture")
    (layout.figures / "figure_5.pdf").write_bytes(b"another")
    logs = layout.folder / "logs" / "generate"
    logs.mkdir(parents=True)
    (logs / "uuid-adam-0.tsv").write_text("s\tmax_rss\tcpu_time\n12.0\t830.5\t10.25\n")
    return SimpleNamespace(study=study, layout=layout)
