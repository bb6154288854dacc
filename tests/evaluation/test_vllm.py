"""A corpus by vLLM itself, in its own environment, beside the same by the JAX engine."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml

from dpg import environments
from dpg.artifacts import read_json, read_table
from dpg.models import LanguageModel, save
from dpg.models.llama import LlamaConfig

ROOT = Path(__file__).resolve().parents[2]
PLACE = environments.path_of("vllm", ROOT / "envs")  # below .environments
ENVIRONMENT = Path(os.environ.get("DPG_VLLM_ENVIRONMENT", ROOT / PLACE))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ENVIRONMENT / "bin" / "python").exists(),
        reason=f"{ENVIRONMENT} is not there: `dpg environment vllm` makes it",
    ),
]


@pytest.fixture(scope="module")
def generator(tmp_path_factory, words):
    """A Llama whose heads are as wide as vLLM asks on a CPU, and which is sure of itself."""
    shape = LlamaConfig(
        vocab_size=words.vocab_size, hidden_size=64, layers=2, heads=2, kv_heads=1,
        intermediate_size=96, context=64, bos_id=words.bos_id, eos_id=words.eos_id,
    )  # fmt: skip
    model = LanguageModel(shape)
    params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, model.init(jax.random.key(0)))
    params["final_norm"] = 200 * params["final_norm"]  # so are all of its logits
    folder = tmp_path_factory.mktemp("generator") / "llama"
    save(folder, model, params, words)
    return folder


def written_by(engine, folder, generator, articles):
    """The table and the record of a corpus as `dpg corpus rollouts` writes it, all but greedily."""
    scale = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    scale["downstream"]["corpus"] = {
        "tokens": 500,
        "shard_rollouts": 32,
        "temperature": 0.01,  # vLLM takes no less
        "engine": engine,
        "vllm": {"dtype": "float32", "gpu_memory_utilization": 0.25},
    }
    scale["downstream"]["cpt"]["tokens"] = 500
    (folder / "scale.yaml").write_text(yaml.safe_dump(scale))
    (folder / "experiments.yaml").write_bytes((ROOT / "config/experiments.yaml").read_bytes())
    if engine == "vllm":
        (folder / PLACE).parent.mkdir()
        (folder / PLACE).symlink_to(ENVIRONMENT)
        (folder / "envs").symlink_to(ROOT / "envs")
    command = [sys.executable, "-m", "dpg", "corpus", "rollouts", "-c", "scale.yaml"]
    command += ["--generator", generator, "--articles", articles, "--out", folder / engine]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=600)
    return read_table(folder / engine / "shard_00000.parquet"), read_json(
        folder / engine / "corpus.json"
    )


def test_vllm_writes_what_the_jax_engine_writes(tmp_path, generator, articles):
    ours, _ = written_by("jax", tmp_path, generator, articles)
    theirs, record = written_by("vllm", tmp_path, generator, articles)
    assert record["tokens"] >= 500
    assert theirs.source.tolist() == ours.source.tolist()
    same = [a.tolist() == b.tolist() for a, b in zip(ours.tokens, theirs.tokens, strict=True)]
    assert sum(same) >= 30  # of 32: two tokens may be equally probable but for rounding
