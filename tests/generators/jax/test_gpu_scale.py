"""The scale `gpu` on real weights: two steps of SmolLM2, cut to 8 rollouts of 16 tokens."""

import math
import os
import resource
import shutil
import signal
import string
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dpg import artifacts
from dpg.config import SmolLM2Model
from dpg.models import base
from dpg.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]

ARTICLES = [
    f"{name} is a river in the north. It rises in the hills of {other}, runs for {i + 40} km past "
    f"farms and two small towns, and meets the sea near a harbour that was built in 19{i + 10}."
    for i, (name, other) in enumerate(zip(string.ascii_uppercase, "KLMNOPQRST" * 2, strict=False))
]
PASSAGES = [
    "El hombre abrió la puerta despacio y miró hacia la calle.",
    "Cuando llegaron al pueblo, la noche ya había caído sobre las casas.",
    "No dijo nada más; tomó el sombrero de la mesa y salió.",
    "La niña corrió hasta el río para ver pasar los barcos.",
]
CUT = {
    "generator": {
        "grpo_steps": 2,
        "prompt_tokens": 96,
        "prompt_multiple": 32,
        "response_tokens": 16,
        "mini_batch_prompts": 1,
        # Sampling 8 rollouts needs no parts, and each of those asked for is a program to compile.
        "rollout_batch": None,
    },
    "learner": {"batch_size": 8},
    "metric": {"context": 16},
    "validation": {"every": 2, "kept": 2},
    "checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`dpg generate` for the cut scale, without its `--out`."""
    folder = tmp_path_factory.mktemp("gpu")
    pytest.importorskip("gguf")
    base.fetch(SmolLM2Model(source="smollm2"), out=folder / "model", downloads=folder)
    scale = yaml.safe_load((ROOT / "config" / "gpu.yaml").read_text())
    scale["experiments"] = {"lambada-es": {**CUT, "variants": {"adam": None}}}
    (folder / "gpu.yaml").write_text(yaml.safe_dump(scale))
    articles = pd.DataFrame({"text": ARTICLES, "split": ["train"] * 10 + ["validation"] * 10})
    articles = articles.assign(id=[f"a{i}" for i in range(20)], title="t", language="en")
    artifacts.write_table(folder / "articles.parquet", articles)
    passages = pd.DataFrame({"id": list("abcd"), "text": PASSAGES})
    passages = passages.assign(language="es", source="x", split="train")
    artifacts.write_table(folder / "passages.parquet", passages)
    yield [
        *(sys.executable, "-m", "dpg", "generate", "-c", str(folder / "gpu.yaml")),
        *("--experiment", "lambada-es", "--variant", "adam"),
        *("--generator", str(folder / "model"), "--target", str(folder / "model")),
        *("--articles", str(folder / "articles.parquet")),
        *("--passages", str(folder / "passages.parquet")),
    ]
    shutil.rmtree(folder)  # gigabytes


def test_a_killed_run_of_the_gpu_scale_ends_with_the_same_finite_numbers(
    command, tmp_path, wait_until
):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    started = {"cwd": ROOT, "env": environment}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, **started)
    rows = artifacts.read_lines(whole / "metrics.jsonl")
    assert [(row["step"], row["phase"]) for row in rows] == [
        (0, "validation"), (0, "train"), (1, "train"), (2, "validation"),
    ]  # fmt: skip
    for row in rows:
        assert all(math.isfinite(x) for x in row.values() if isinstance(x, int | float)), row
    train = [row for row in rows if row["phase"] == "train"]
    assert all(row["reward_std"] > 0 and row["gradient_norm"] > 0 for row in train)
    assert all(0 < row["sampling_gap"] < 0.2 for row in train)
    texts = artifacts.read_table(whole / "validation.parquet")["response"]
    assert texts.str.len().min() > 10

    process = subprocess.Popen([*command, "--out", str(killed)], **started)
    checkpoint = RunFolder(killed).state.checkpoint
    wait_until(checkpoint.exists, 900, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "run.json").exists()
    subprocess.run([*command, "--out", str(killed)], check=True, **started)
    for name in ("metrics.jsonl", "validation.parquet", "generator/model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    # 10.1 GB measured: the policy, its optimizer's state, the target with its states, in float32.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 12_000_000  # kB
    for folder in (whole, killed):
        shutil.rmtree(folder)
