"""Model directories as the hub has them: followed as transformers follows them, or refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from dpg.errors import DpgError
from dpg.models import LanguageModel, load, save, tied, tokenizer
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 41
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def written(request, tmp_path_factory):
    return write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return write("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write("llama", tmp_path_factory.mktemp("llama"))


def write(kind, directory):
    """A tiny tied model, written by transformers with weights large enough to show every part."""
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
            tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return kind, json.loads((directory / "config.json").read_text()), tensors_of(directory)


def tensors_of(directory):
    return safetensors.numpy.load_file(directory / "model.safetensors")


def put(directory, config, tensors):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    return directory


def check_same(directory):
    """Our logits are transformers' own; gives our model and parameters."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    tokens = np.random.default_rng(0).integers(0, V, (2, 24)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    model, params, _ = load(directory)
    found = jax.jit(model.logits)(params, tokens)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    return model, params


def embedding(kind):
    return "transformer.wte.weight" if kind == "gpt2" else "model.embed_tokens.weight"


def head(tensors, kind):
    noise = np.random.default_rng(1).normal(size=(V, 16)).astype(np.float32)
    return {**tensors, "lm_head.weight": tensors[embedding(kind)] + noise}


def test_a_tied_head_written_out_twice(written, tmp_path):
    kind, config, tensors = written
    copy = {**tensors, "lm_head.weight": tensors[embedding(kind)].copy()}
    model, params = check_same(put(tmp_path, config, copy))
    assert model.config.tied
    assert tied(params)


def test_a_head_of_its_own_where_config_says_tied(written, tmp_path):
    kind, config, tensors = written
    model, params = check_same(put(tmp_path, config, head(tensors, kind)))
    assert not model.config.tied
    assert not tied(params)


def test_an_untied_head(written, tmp_path):
    kind, config, tensors = written
    untied = {**config, "tie_word_embeddings": False}
    model, _ = check_same(put(tmp_path, untied, head(tensors, kind)))
    assert not model.config.tied


def test_a_tied_pair_of_which_the_head_alone_is_there(written, tmp_path):
    kind, config, tensors = written
    moved = {**tensors, "lm_head.weight": tensors[embedding(kind)]}
    del moved[embedding(kind)]
    model, _ = check_same(put(tmp_path, config, moved))
    assert model.config.tied


def test_an_untied_head_that_is_missing_is_named(written, tmp_path):
    _, config, tensors = written
    untied = {**config, "tie_word_embeddings": False}
    with pytest.raises(DpgError, match=r"'lm_head\.weight' is missing"):
        load(put(tmp_path, untied, tensors))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_dtypes(written, tmp_path, kind):
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    _, config, tensors = written
    cast = {name: x.astype(dtype) for name, x in tensors.items()}
    _, params = check_same(put(tmp_path, {**config, "dtype": kind}, cast))
    assert params["embed"].dtype == np.float32


def test_quantised_weights_are_named(written, tmp_path):
    kind, config, tensors = written
    with pytest.raises(DpgError, match="quantised weights are not read"):
        load(put(tmp_path / "a", {**config, "quantization_config": {"bits": 4}}, tensors))
    whole = {**tensors, embedding(kind): np.zeros((V, 16), np.int8)}
    with pytest.raises(DpgError, match="holds I8; expected one of F64, F32, F16, BF16"):
        load(put(tmp_path / "b", config, whole))


def test_names_without_prefix(written, tmp_path):
    kind, config, tensors = written
    prefix = "transformer." if kind == "gpt2" else "model."
    check_same(put(tmp_path, config, {name.removeprefix(prefix): x for name, x in tensors.items()}))


def test_names_of_a_wrapper_are_refused(written, tmp_path):
    _, config, tensors = written
    with pytest.raises(DpgError, match=r"is missing; config\.json promises it"):
        load(put(tmp_path, config, {f"module.{name}": x for name, x in tensors.items()}))


def test_a_whole_file_goes_before_an_index(written, tmp_path):
    _, config, tensors = written
    put(tmp_path, config, tensors)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")})
    )
    check_same(tmp_path)


def test_an_index_that_leaves_a_tensor_out(written, tmp_path):
    _, config, tensors = written
    put(tmp_path, config, tensors)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    names = dict.fromkeys(list(tensors)[1:], "model-00001-of-00001.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    check_same(tmp_path)


GPT2_SAME = {
    "defaults left out": {"layer_norm_epsilon": ..., "n_inner": None, "activation_function": ...},
    "eps": {"layer_norm_epsilon": 0.3},
    "the other name of the activation": {"activation_function": "gelu_pytorch_tanh"},
    "common names": {
        "n_embd": ..., "hidden_size": 16, "n_layer": ..., "num_hidden_layers": 2, "n_head": ...,
        "num_attention_heads": 2, "n_positions": ..., "max_position_embeddings": 32,
    },
    "attention in float32": {"reorder_and_upcast_attn": True},
    "an older key": {"n_ctx": 7},
}  # fmt: skip
LLAMA_SAME = {
    "eps": {"rms_norm_eps": 0.3},
    "swish": {"hidden_act": "swish"},
    "older rotary keys": {"rope_parameters": ..., "rope_theta": 500.0},
    "older rotary scaling": {"rope_parameters": ..., "rope_theta": 500.0, "rope_scaling": LLAMA3},
    "still older": {
        "rope_parameters": ...,
        "rope_scaling": {**{k: v for k, v in LLAMA3.items() if k != "rope_type"}, "type": "llama3"},
    },
    "no rotary key at all": {"rope_parameters": ...},
    "both spellings": {
        "rope_parameters": {**LLAMA3, "rope_theta": 500.0},
        "rope_theta": 500.0,
        "rope_scaling": LLAMA3,
    },
    "original positions left out": {
        "rope_parameters": {**LLAMA3, "original_max_position_embeddings": ...}
    },
    "original positions outside": {
        "rope_parameters": {**LLAMA3, "rope_theta": 500.0},
        "original_max_position_embeddings": 8,
    },
    "heads left out": {"head_dim": ..., "pretraining_tp": 2},
    "a window that is off": {"sliding_window": 4, "use_sliding_window": False},
    "full attention by name": {"layer_types": ["full_attention"] * 2},
    "a factor of one": {"partial_rotary_factor": 1.0},
}


def changed(config, changes):
    """The configuration with other values, keys given as ... left out, here and in objects."""
    whole = {**config, **changes}
    return {
        key: changed(value, {}) if isinstance(value, dict) else value
        for key, value in whole.items()
        if value is not ...
    }


@pytest.mark.parametrize("name", GPT2_SAME)
def test_gpt2_configurations_that_are_followed(gpt2, tmp_path, name):
    check_same(put(tmp_path, changed(gpt2[1], GPT2_SAME[name]), gpt2[2]))


@pytest.mark.integration
@pytest.mark.parametrize("name", LLAMA_SAME)
def test_llama_configurations_that_are_followed(llama, tmp_path, name):
    check_same(put(tmp_path, changed(llama[1], LLAMA_SAME[name]), llama[2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function = 'gelu' is not implemented"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"n_head": 3}, "n_embd 16 is not a multiple of n_head 3"),
        ({"n_layer": 1}, r"'transformer\.h\.1\..*' is not part of a gpt2 of 1 layers"),
        ({"n_layer": 3}, r"'transformer\.h\.2\..*' is missing"),
        ({"n_positions": 64}, r"wpe.weight' has the shape \[32, 16\]; expected \[64, 16\]"),
        ({"n_inner": 32}, r"c_fc.weight' has the shape"),
        ({"vocab_size": 48}, r"wte.weight' has the shape \[41, 16\]; expected \[48, 16\]"),
        ({"n_embd": "16"}, "n_embd is '16'; expected a whole number above 0"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon is 'small'; expected a number"),
    ],
)
def test_gpt2_configurations_that_are_refused(gpt2, tmp_path, changes, message):
    with pytest.raises(DpgError, match=message):
        load(put(tmp_path, changed(gpt2[1], changes), gpt2[2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias = True is not implemented"),
        ({"mlp_bias": True}, "mlp_bias = True is not implemented"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"sliding_window": 8}, "sliding_window = 8"),
        ({"layer_types": ["sliding_attention"] * 2}, r"\['sliding_attention'\] are not"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_parameters": ..., "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": LLAMA3}, "rope_parameters and rope_scaling .* contradict each other"),
        ({"num_key_value_heads": 2}, r"k_proj.weight' has the shape \[8, 16\]; expected \[16, 16"),
        ({"head_dim": 4}, r"proj.weight' has the shape"),
        ({"num_key_value_heads": 3}, "heads 2 is not a multiple of num_key_value_heads 3"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "hidden_size 16 is not a multiple"),
    ],
)  # fmt: skip
def test_llama_configurations_that_are_refused(llama, tmp_path, changes, message):
    with pytest.raises(DpgError, match=message):
        load(put(tmp_path, changed(llama[1], changes), llama[2]))


def test_biases_that_config_does_not_mention_are_refused(llama, tmp_path):
    bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(16, np.float32)}
    with pytest.raises(DpgError, match=r"q_proj\.bias' is not part of a llama of 2 layers"):
        load(put(tmp_path, llama[1], {**llama[2], **bias}))


def test_a_padded_vocabulary_and_added_tokens_beyond_it(tmp_path):
    words = tokenizer.train(["a b c d e f"], vocab_size=258)

    def saved(rows):
        model = LanguageModel(Gpt2Config(rows, 8, 1, 2, 16, 12, eos_id=0))
        save(tmp_path / str(rows), model, model.init(jax.random.key(0)), words)
        return tmp_path / str(rows)

    assert load(saved(320))[0].known == 258
    assert load(saved(258))[0].known is None
    with pytest.raises(DpgError, match="have 258 ids, the model's embedding has 257 rows"):
        load(saved(257))
    (saved(258) / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(DpgError, match="added tokens have 259 ids"):
        load(tmp_path / "258")


def test_every_end_of_a_response_travels_with_a_saved_model(tmp_path):
    words = tokenizer.train(["a b c d e f"], vocab_size=260, special=("<e>", "<t>", "<m>"))
    model = LanguageModel(LlamaConfig(260, 8, 1, 2, 1, 4, 16, 12, eos_id=0))
    params = model.init(jax.random.key(0))
    save(tmp_path / "a", model, params, words)
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 0, 2]}))
    read, params, own = load(tmp_path / "a")
    assert own.eos_ids == (0, 1, 2)
    save(tmp_path / "b", read, params, own)
    assert load(tmp_path / "b")[2].eos_ids == (0, 1, 2)
    generation = transformers.GenerationConfig.from_model_config(
        transformers.AutoConfig.from_pretrained(tmp_path / "b")
    )
    assert generation.eos_token_id == [0, 1, 2]
