"""Targets in EasyDeL: logits, losses and metagradients are those of transformers and our own.

EasyDeL lives in an environment of its own: `.environments/easydel-<digest>`, made from
envs/easydel.txt, or the one whose Python DPG_EASYDEL_PYTHON names.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from dpg import environments
from dpg.errors import DpgError
from dpg.models import easydel

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "easydel_script.py"
PYTHON = Path(os.environ.get("DPG_EASYDEL_PYTHON", ROOT / environments.python_of("easydel")))

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def test_where_easydel_is_missing_the_way_out_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    if easydel.importlib.util.find_spec("easydel") is not None:
        pytest.skip("EasyDeL is installed here")
    with pytest.raises(DpgError, match=r"envs/easydel\.txt"):
        easydel.load(tmp_path)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(DpgError, match=r"config\.json does not exist"):
        easydel.load(tmp_path)


def test_rotary_settings_are_written_where_easydel_looks(tmp_path):
    rope = {**LLAMA3, "rope_theta": 500.0}
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with easydel._spelled_out(tmp_path) as folder:
        config = json.loads((folder / "config.json").read_text())
        assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert config["rope_theta"] == 500.0
    assert config["rope_scaling"] == LLAMA3
    assert not folder.exists()
    assert "rope_theta" not in json.loads((tmp_path / "config.json").read_text())


def test_default_rotary_embeddings_are_no_scaling(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 10.0}
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
    with easydel._spelled_out(tmp_path) as folder:
        config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == 10.0
    assert config.get("rope_scaling") is None


# --- in EasyDeL's environment --------------------------------------------------------------------


def sizes(transformers):
    """Tiny shapes of the paper's two architectures, written as their publishers write them."""
    common = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    llama = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return {
        "gpt2-tied": transformers.GPT2Config(**common, **gpt2),
        "gpt2-untied": transformers.GPT2Config(**common, **gpt2, tie_word_embeddings=False),
        "llama-untied": transformers.LlamaConfig(
            **common, **llama, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
        ),
        "llama3-tied": transformers.LlamaConfig(
            **common, **llama, tie_word_embeddings=True,
            rope_parameters={**LLAMA3, "rope_theta": 500000.0},
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if not PYTHON.exists():
        pytest.skip(f"no EasyDeL at {PYTHON}: make it from envs/easydel.txt")
    made = {}
    for name, config in sizes(transformers).items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # large enough that every part of the model shows
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        made[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(made[name])
    # GPT-2 as it was published says nothing about its head: it is tied.
    path = made["gpt2-tied"] / "config.json"
    published = json.loads(path.read_text())
    published.pop("tie_word_embeddings", None)
    path.write_text(json.dumps(published))
    return made


def run(*arguments):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [PYTHON, SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=1100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_logits_losses_and_metagradients_are_those_of_our_own_models(directories):
    report = run("compare", *directories.values())
    for name, found in report.items():
        assert found["tied"] == found["native_tied"] == name.endswith("-tied"), name
        assert found["largest_logit"] > 1, name  # else 1e-4 would say nothing
        assert found["logits_easydel"] < 1e-4, name
        assert found["logits_native"] < 1e-4, name
        for key in ("losses_own_tokens", "losses_all_positions", "metric", "metagradient"):
            assert found[key] < 1e-4, (name, key, found[key])
        assert found["metagradient_size"] > 0, name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_not_mended_is_refused(directories):
    said = run("faults", directories["llama-untied"])
    assert set(said) == {"_keep_precision", "_spelled_out", "_FLOAT32"}
    for name, message in said.items():
        assert "EasyDeL's logits differ from transformers'" in message, name
        assert "implementation: native" in message
