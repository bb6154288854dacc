"""Model directories: whole or not at all, and every kind of damage named."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dpg.errors import DpgError
from dpg.models import LanguageModel, load, save, tokenizer, untie
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import Llama3Scaling, LlamaConfig

GPT2 = LanguageModel(Gpt2Config(19, 8, 2, 2, 16, 12, eos_id=3))
LLAMA = LanguageModel(
    LlamaConfig(
        19, 8, 3, 4, 2, 2, 16, 12, 1e-5, 5e5, Llama3Scaling(8.0, 1.0, 4.0, 8), eos_id=(3, 5)
    )
)


@pytest.fixture(params=["gpt2", "llama"])
def case(request, tmp_path):
    model = {"gpt2": GPT2, "llama": LLAMA}[request.param]
    params = model.init(jax.random.key(0))
    save(tmp_path / "model", model, params)
    return model, params, tmp_path / "model"


def rewrite(directory, change):
    """Change the tensors of a directory's file in place."""
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors = change(dict(tensors))
    safetensors.numpy.save_file(tensors, path)


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_round_trip(case):
    model, params, directory = case
    again, params_again, tokens = load(directory)
    assert again == model
    assert tokens is None
    equal(params_again, params)


def test_untied_round_trip(case, tmp_path):
    model, params, _ = case
    untied = untie(params)
    save(tmp_path / "untied", model, untied)
    again, params_again, _ = load(tmp_path / "untied")
    assert again == model.with_tied(False)
    equal(params_again, untied)


def test_dtype(case, tmp_path):
    model, params, _ = case
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    save(tmp_path / "half", model, half)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    _, read, _ = load(tmp_path / "half")
    equal(read, jax.tree.map(lambda x: x.astype(jnp.float32), half))
    _, read, _ = load(tmp_path / "half", dtype=jnp.bfloat16)
    assert read["embed"].dtype == jnp.bfloat16
    equal(read, half)


def test_tokenizer_travels_along(tmp_path):
    words = tokenizer.train(["a b c d e f"], vocab_size=258)
    model = LanguageModel(replace(GPT2.config, vocab_size=258))
    save(tmp_path / "m", model, model.init(jax.random.key(0)), words)
    again, _, read = load(tmp_path / "m")
    assert read.encode("a b") == words.encode("a b")
    assert again.known is None


def test_sharded_directory(case):
    _, params, directory = case
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    equal(load(directory)[1], params)
    (directory / "model-0000x.safetensors").write_bytes(b"")
    moved = names[0]
    index.write_text(json.dumps({"weight_map": {**weight_map, moved: weight_map[names[1]]}}))
    with pytest.raises(DpgError, match=f"lacks the tensor '{moved}'"):
        load(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DpgError, match=r"model-00002-of-00002\.safetensors does not exist"):
        load(directory)


def test_names_without_prefix_and_with_buffers(case):
    _, params, directory = case

    def bare(tensors):
        tensors = {n.removeprefix("transformer."): t for n, t in tensors.items()}
        tensors["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
        tensors["h.0.attn.masked_bias"] = np.float32(1).reshape(1)
        return tensors

    def with_rotary(tensors):
        return {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}

    rewrite(directory, bare if "positions" in params else with_rotary)
    equal(load(directory)[1], params)


def test_tied_head_written_out_is_ignored(tmp_path):
    params = GPT2.init(jax.random.key(0))
    save(tmp_path, GPT2, params)
    rewrite(tmp_path, lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"]})
    model, read, _ = load(tmp_path)
    assert model.config.tied
    equal(read, params)


def test_cut_short_file_is_named(case):
    path = case[2] / "model.safetensors"
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 5, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(DpgError, match=r"model\.safetensors is damaged or incomplete"):
            load(case[2])


def test_missing_unexpected_and_misshapen_tensors_are_named(case):
    model, _, directory = case
    name = {"gpt2": "transformer.h.1.mlp.c_fc.weight", "llama": "model.layers.1.mlp.up_proj.weight"}
    name = name[model.family.MODEL_TYPE]
    backup = directory.with_name("backup")
    shutil.copytree(directory, backup)

    def check(change, message):
        shutil.copytree(backup, directory, dirs_exist_ok=True)
        rewrite(directory, change)
        with pytest.raises(DpgError, match=message):
            load(directory)

    check(lambda t: t.pop(name) is None or t, f"the tensor '{name}' is missing")
    check(lambda t: {**t, "extra.weight": t[name]}, r"'extra\.weight' is not part of")
    further = name.replace("1", "7")
    check(lambda t: {**t, further: t[name]}, f"'{further}' is not part of")
    check(
        lambda t: {**t, name: t[name][:-1]},
        f"'{name}' has the shape .*; expected " + r"\[.*by config.json",
    )


def test_missing_and_unsupported_config(case):
    model, _, directory = case
    path = directory / "config.json"
    config = json.loads(path.read_text())

    def check(changes, message):
        path.write_text(json.dumps({**config, **changes}))
        with pytest.raises(DpgError, match=message):
            load(directory)

    check({"model_type": "mamba"}, "'mamba' is not supported; supported are .*gpt2.*llama")
    check({"vocab_size": None}, "lacks 'vocab_size'")
    if model is GPT2:
        check({"activation_function": "relu"}, "activation_function = 'relu' is not implemented")
        check({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx")
        check({"n_head": 3}, "n_embd 8 is not a multiple of n_head 3")
    else:
        check({"attention_bias": True}, "attention_bias = True is not implemented")
        check({"mlp_bias": True}, "mlp_bias = True is not implemented")
        check({"hidden_act": "gelu"}, "hidden_act")
        check({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not implemented")
        check({"rope_parameters": {"rope_type": "llama3"}}, "lacks 'factor'")
    path.write_text("{")
    with pytest.raises(DpgError, match=r"config\.json, line 1.*not valid JSON"):
        load(directory)
    path.unlink()
    with pytest.raises(DpgError, match=r"config\.json does not exist"):
        load(directory)


def test_both_spellings_of_the_rotary_scaling():
    new = LLAMA.to_hf()
    old = {k: v for k, v in new.items() if k != "rope_parameters"}
    newest = {k: v for k, v in new.items() if k not in ("rope_scaling", "rope_theta")}
    assert LanguageModel.from_hf(old) == LanguageModel.from_hf(newest) == LLAMA


def test_pickles_are_refused_with_a_hint(case):
    (case[2] / "model.safetensors").unlink()
    (case[2] / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DpgError, match=r"pytorch_model\.bin is a pickle and is not read"):
        load(case[2])


def test_save_replaces_a_directory_and_leaves_nothing_beside_it(case):
    model, params, directory = case
    (directory / "stale.txt").write_text("x")
    changed = jax.tree.map(lambda x: x + 1, params)
    save(directory, model, changed)
    equal(load(directory)[1], changed)
    assert not (directory / "stale.txt").exists()
    assert [p.name for p in directory.parent.iterdir()] == [directory.name]


def test_failed_save_leaves_the_old_directory(case, monkeypatch):
    model, params, directory = case

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save(directory, model, params)
    equal(load(directory)[1], params)
    assert [p.name for p in directory.parent.iterdir()] == [directory.name]


def test_file_in_the_way_is_named(tmp_path):
    (tmp_path / "m").write_text("x")
    with pytest.raises(DpgError, match="is a file"):
        save(tmp_path / "m", GPT2, GPT2.init(jax.random.key(0)))
