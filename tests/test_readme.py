"""What the README and the documentation show works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpg import artifacts, config
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    metric, shape = capsys.readouterr().out.split(" ", 1)
    assert float(metric) < 0
    assert shape.strip() == "(8, 32)"


def test_the_example_of_the_metagradients_page_runs(capsys):
    page = (ROOT / "docs" / "metagradients.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.S)[-1]
    exec(compile(code, "docs/metagradients.md", "exec"), {})
    share, words = capsys.readouterr().out.split("% ")
    assert words == "of the examples judged rightly\n"
    assert int(share) > 75  # half of the labels are wrong: guessing is right for 50 %


def test_the_command_of_lm_eval_measures_as_table_1_does():
    page = (ROOT / "docs" / "downstream.md").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"--model_args (\S+) \\\n", page)
    given = dict(part.split("=") for part in arguments.split(","))
    study = config.load(ROOT / "config" / "tiny.yaml", ROOT / "config" / "experiments.yaml")
    settings = study.downstream.perplexity
    layout = Layout("tiny")
    assert given == {
        "pretrained": str(layout.model("llama-base")),
        "dtype": settings.dtype,
        "add_bos_token": str(settings.add_bos),
        "max_length": str(settings.context),
    }
    assert f"--include_path {layout.tasks} --tasks dpg_lambada_es_test" in page


@pytest.mark.slow
def test_the_example_of_the_page_on_targets_of_ones_own_runs(capsys):
    page = (ROOT / "docs" / "your_own_target.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "docs/your_own_target.md", "exec"), {})
    scores = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3
    assert scores[0] > scores[1] > scores[2]
    said = re.search(r"from (\d\.\d+) to (\d\.\d+)", page)
    assert [float(said[1]), float(said[2])] == pytest.approx([scores[0], scores[-1]], abs=0.01)


@pytest.mark.slow
@pytest.mark.network
def test_the_lipogram_study_runs_and_both_of_its_generators_learn(tmp_path):
    example = ROOT / "docs" / "examples" / "lipogram"
    for name in ("Snakefile", "workflow", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "study").mkdir()
    short = {"grpo_steps: 24": "grpo_steps: 6", "steps: 600": "steps: 200", "every: 6": "every: 3"}
    for name in ("experiments.yaml", "lipogram.yaml"):
        text = (example / name).read_text(encoding="utf-8")
        for old, new in short.items():
            text = text.replace(old, new)
        (tmp_path / "study" / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "report_pages", "--cores", "2", "--quiet", "all",
         "--show-failed-logs", "--configfile", "study/lipogram.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
        env=os.environ | {"PYTHONPATH": str(example)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for variant in ("adam", "direct"):
        log = tmp_path / "results" / "lipogram" / "runs" / "lipogram" / variant / "seed0"
        lines = artifacts.read_lines(log / "metrics.jsonl")
        metric = [line["metric"] for line in lines if line["phase"] == "validation"]
        assert len(metric) == 3
        assert metric[-1] > metric[0], variant


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = sorted(
    {
        (page.relative_to(ROOT), target)
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(("page", "target"), LINKS, ids=str)
def test_every_link_leads_somewhere(page, target):
    assert (ROOT / page.parent / target).exists()
