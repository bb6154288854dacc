"""`reading: code` against the authors' arithmetic, written anew in PyTorch with its own autograd.

Theirs, by what their repository does at commit 671c35c9e156ca72ae04beb5693d648f27b3cffe:

- a text is tokenised, with begin-of-text where the tokenizer adds it; labels are the next tokens,
  then the end of text. Inputs and labels are cut to S positions or padded with token 0. A loss is
  the mean over the S positions, where those with the end of text as their label count 0;
- examples are shuffled, and cut into batches of k microbatches. The gradient of a step is the sum
  over microbatches of the gradient of each one's mean loss;
- a reward is the inner product of an example's gradient with the adjoint of that sum: the exact
  metagradient times the examples of a microbatch;
- the metric of a language is minus the mean over passages of the losses of the last word, summed
  and divided by S;
- advantages are (r - mean) / (std + 1e-6) within a group, and the policy's loss is the mean over
  microbatches of 4 rollouts of the mean over tokens, as in verl.

Their order is of another generator of random numbers than ours: here both shuffle alike.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from dpg import config, metrics, rewards, targets
from dpg.generators.advantages import group_advantages
from dpg.generators.jax.policy import JaxGenerator
from dpg.models import LanguageModel, Tokenizer, llama, load, save, untie
from dpg.models import tokenizer as tokenizers
from dpg.models.decode import Rollouts
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import Rewards, RolloutBatch

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("float64")]

S, B, K, G, P = 10, 8, 4, 4, 4  # positions, batch, microbatches, group, tokens of a prompt
RATES = {"adam": 1e-4, "sgd": 1e-2}
SCALE = """
scale: test
reading: code
text:
  articles: {source: folder, folder: articles, train: 40, validation: 40}
  passages: {source: folder, folder: passages}
prompt_style: prefix
models:
  llama-instruct: {source: folder, folder: llama}
  gpt2: {source: folder, folder: gpt2}
horizons: {long: 4, middle: 2, short: 1}
defaults:
  prompts: {articles: null, sample: null}
  generator: {grpo_steps: 1, prompt_tokens: 4, response_tokens: 10, mini_batch_prompts: 2}
  learner: {batch_size: 8, microbatches: 4}
  validation: {every: 2, kept: 4}
experiments:
  sixseven: {variants: {adam-long: , adam-long-nogroups: , naive-long: }}
  lambada-es: {metric: {positions: 10, context: 11}, variants: {adam: }}
"""


def tokenizer_of(backend, start):
    """A tokenizer whose end of text is not token 0, as GPT-2's and Llama's are not."""
    ends = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": start}
    return Tokenizer(backend, ends)


@pytest.fixture(scope="module")
def small(tmp_path_factory, request):
    """Both models in files, texts that their tokenizers give back, and runs of `reading: code`."""
    root = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 3)) for _ in range(30)]
    texts = [" ".join(rng.choice(words, 40)) for _ in range(60)]
    special = ("<|zero|>", "<|end|>", "<|begin|>")
    backend = tokenizers.train(texts, vocab_size=300, special=special)._backend
    shapes = {
        "gpt2": Gpt2Config(300, 16, 1, 2, context=32, intermediate_size=32, eos_id=1, bos_id=2),
        "llama": LlamaConfig(300, 16, 1, 2, 1, 8, 32, intermediate_size=24, eos_id=1, bos_id=2),
    }
    found = SimpleNamespace(root=root, words=words, tokenizers={})
    for seed, (name, shape) in enumerate(shapes.items()):
        model = LanguageModel(shape)
        # Larger than at their start, so that attention does something.
        params = jax.tree.map(lambda x: 3 * x, model.init(jax.random.key(seed)))
        found.tokenizers[name] = tokenizer_of(backend, start=name == "llama")
        save(root / name, model, params, found.tokenizers[name])
        untied = model.with_tied(False), untie(params)
        save(root / f"{name}-untied", *untied, found.tokenizers[name])
    (root / "test.yaml").write_text(SCALE)
    found.study = config.load(
        root / "test.yaml", request.config.rootpath / "config/experiments.yaml"
    )
    found.passages = [" ".join(rng.choice(words, size)) for size in (2, 3, 4, 3, 2, 9, 3, 4)]
    return found


def rollouts_of(small, count, seed=3):
    """Ids of texts of up to S tokens, and what the generator wrote: tokens and both masks."""
    rng = np.random.default_rng(seed)
    own = small.tokenizers["gpt2"]
    rows = []
    while len(rows) < count:
        ids = own.encode(" ".join(rng.choice(small.words, rng.integers(1, 8))))[:S]
        if len(ids) > 1 and own.encode(own.decode(ids)) == ids:
            rows.append(ids)
    assert {len(row) == S for row in rows} == {True, False}
    tokens = np.zeros((count, S), np.int32)
    for row, ids in enumerate(rows):
        tokens[row] = (ids + [own.eos_id] + [0] * S)[:S]
    lengths = np.array([len(ids) for ids in rows])
    places = np.arange(S)
    written, own_tokens = places < (lengths + 1)[:, None], places < lengths[:, None]
    return rows, tokens, written, own_tokens


# --- theirs --------------------------------------------------------------------------------------


FREQUENCIES = 10_000.0 ** -(np.arange(4) / 4)  # of Llama's rotations, for heads of 8


@pytest.fixture(autouse=True)
def _rotations_in_float64(monkeypatch):
    """Both have them in float32, whose last digit Adam's derivative makes a ten-thousandth."""

    def ours(config, positions):
        angles = positions[..., None] * FREQUENCIES
        return jnp.cos(angles), jnp.sin(angles)

    monkeypatch.setattr(llama, "rotary", ours)


class Rotations(torch.nn.Module):
    def forward(self, x, position_ids):
        angles = (position_ids[..., None] * torch.tensor(FREQUENCIES)).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


def in_float64(folder):
    """A model of transformers that computes in float64 throughout: its own norm does not."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="sdpa", dtype=torch.float64
    ).eval()
    if model.config.model_type == "llama":
        model.model.rotary_emb = Rotations()
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm).__name__ == "LlamaRMSNorm":
                own = torch.nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=torch.float64)
                own.weight = norm.weight
                setattr(parent, name, own)
    return model


@pytest.fixture(autouse=True)
def _twice_differentiable():
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


class Theirs:
    """A target model in PyTorch, in float64, as a function of a dictionary of parameters."""

    def __init__(self, small, name, optimizer, rate, passages=None):
        folder = small.root / (f"{name}-untied" if name == "gpt2" else name)
        self.module = in_float64(folder)
        self.tokenizer = small.tokenizers[name]
        self.optimizer, self.rate, self.passages = optimizer, rate, passages
        self.initial = {
            key: value.detach().clone().requires_grad_()
            for key, value in self.module.named_parameters()
        }

    def losses(self, params, inputs, labels):
        logits = torch.func.functional_call(self.module, params, (torch.tensor(inputs),)).logits
        targets = torch.tensor(labels)
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return torch.where(targets == self.tokenizer.eos_id, 0.0, each).mean(1)

    def padded(self, ids, labels):
        cut = [np.pad(np.array(row), (0, S))[:S] for row in (ids, labels)]
        return [np.where(row < 0, 0, row) for row in cut]

    def example(self, text):
        start = [self.tokenizer.bos_id] if self.tokenizer.add_bos else []
        ids = start + self.tokenizer.encode(text)
        return self.padded(ids, [*ids[1:], self.tokenizer.eos_id])

    def passage(self, text):
        head, word = text.rsplit(" ", 1)
        context, last = self.tokenizer.encode(head), self.tokenizer.encode(" " + word)
        end = self.tokenizer.eos_id
        labels = [end] * len(context) + last + [end]
        ids = context + last + [end]
        if self.tokenizer.add_bos:
            ids, labels = [self.tokenizer.bos_id, *ids], [self.tokenizer.bos_id, *labels]
        ids, labels = (row + [end] * S for row in (ids, labels[1:]))
        return self.padded(ids, labels)

    def metric(self, params):
        if self.passages is None:
            change = (params["lm_head.weight"] - self.initial["lm_head.weight"]).T[:6, :7]
            wanted = torch.tensor(metrics.target_67(), dtype=torch.float64)
            return -torch.log(1 + torch.exp(-20.0 * wanted * change)).mean()
        inputs, labels = map(np.stack, zip(*map(self.passage, self.passages), strict=True))
        return -self.losses(params, inputs, labels).mean()

    def step(self, params, gradient, state, t):
        """AdamW with eps_root in the root, or SGD."""
        if self.optimizer == "sgd":
            return {key: p - self.rate * gradient[key] for key, p in params.items()}, state
        after, kept = {}, {}
        for key, p in params.items():
            m, v = state.get(key, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * gradient[key], 0.95 * v + 0.05 * gradient[key] ** 2
            kept[key] = m, v
            root = torch.sqrt(v / (1 - 0.95**t) + 1e-9) + 1e-8
            after[key] = p - self.rate * (m / (1 - 0.9**t) / root + 1e-4 * p)
        return after, kept

    def rewards(self, texts):
        """One reward per text and the metric after training; the exact metagradients as well."""
        order = np.random.default_rng(42).permutation(len(texts))
        data = [self.example(texts[i]) for i in order]
        size = B if len(texts) % B == 0 else len(texts)
        weights = torch.ones(len(texts), dtype=torch.float64, requires_grad=True)
        params, state, kept = self.initial, {}, []
        for t, start in enumerate(range(0, len(texts), size), start=1):
            gradient = {key: torch.zeros_like(p) for key, p in params.items()}
            rows = range(start, start + size)
            for part in np.split(np.array(rows), K):
                inputs, labels = (np.stack([data[i][j] for i in part]) for j in (0, 1))
                loss = (weights[part] * self.losses(params, inputs, labels)).mean()
                parts = torch.autograd.grad(loss, list(params.values()), create_graph=True)
                for key, g in zip(params, parts, strict=True):
                    gradient[key] = gradient[key] + g
            kept.append((rows, params, gradient))
            params, state = self.step(params, gradient, state, t)
        metric = self.metric(params)
        found = np.zeros(len(texts))
        for rows, params, gradient in kept:
            # What the metric does not read, it does not depend on.
            adjoint = torch.autograd.grad(
                metric, list(gradient.values()), retain_graph=True, allow_unused=True
            )
            for i in rows:
                inputs, labels = (data[i][j][None] for j in (0, 1))
                loss = self.losses(params, inputs, labels)[0]
                own = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
                products = (
                    float((g * a).sum()) for g, a in zip(own, adjoint, strict=True) if a is not None
                )
                found[order[i]] = sum(products)
        exact = np.zeros(len(texts))
        exact[order] = torch.autograd.grad(metric, weights)[0].numpy()
        return found, exact, metric.item()


def their_advantages(values, groups):
    """verl's GRPO: the sample's standard deviation and an epsilon of 1e-6."""
    found = np.empty(len(values))
    for group in np.unique(groups):
        own = torch.tensor(values[groups == group])
        found[groups == group] = ((own - own.mean()) / (own.std() + 1e-6)).numpy()
    return found


def their_update(small, prompts, tokens, written, old, advantages, settings):
    """One pass over mini-batches, in microbatches of 4, by AdamW; returns the state dictionary."""
    module = in_float64(small.root / "llama")
    options = {"lr": settings.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01, **options)
    size = settings.mini_batch_prompts * G
    for start in range(0, len(tokens), size):
        optimizer.zero_grad()
        for part in np.split(np.arange(start, start + size), size // 4):
            both = np.concatenate([prompts[part // G], tokens[part]], 1).astype(np.int64)
            logits = module(torch.tensor(both)).logits[:, P - 1 : -1]
            chosen = torch.tensor(tokens[part].astype(np.int64))[..., None]
            logprobs = logits.log_softmax(-1).gather(-1, chosen)[..., 0]
            ratio = torch.exp(logprobs - torch.tensor(old[part], dtype=torch.float64))
            advantage = torch.tensor(advantages[part])[:, None]
            losses = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
            losses = torch.where(advantage < 0, losses.clamp(max=-3 * advantage), losses)
            own = torch.tensor(written[part])
            (losses[own].mean() / (size // 4)).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return {key: value.detach().numpy() for key, value in module.named_parameters()}


# --- ours against theirs -------------------------------------------------------------------------


def run_of(small, model, optimizer, steps, variant, rate):
    experiment = "sixseven" if model == "gpt2" else "lambada-es"
    run = small.study.run(experiment, variant or ("adam-T4" if model == "gpt2" else "adam"), 0)
    changes = {"optimizer": optimizer, "learning_rate": rate, "steps": steps}
    learner = run.learner.model_copy(update=changes)
    return type(run).model_validate(run.model_dump() | {"learner": learner.model_dump()})


def our_reward(small, run, name, batch):
    model, params, own = load(small.root / name)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    own = small.tokenizers[name]
    table = pd.DataFrame({"text": small.passages, "language": "es", "split": "train"})
    target = targets.build(run, model, params, own, table)
    length = run.learner.example_tokens(run.generator.response_tokens, adds_start=own.add_bos)
    examples = ExampleMaker(small.tokenizers["gpt2"], own, length)
    return rewards.build(run, target, examples)(batch)


def both(small, name, optimizer, steps, variant=None, rate=None):
    """Ours, and what theirs takes: the texts."""
    rate = rate or RATES[optimizer]
    run = run_of(small, name, optimizer, steps, variant, rate)
    rows, tokens, written, own = rollouts_of(small, run.rollouts_per_step)
    batch = RolloutBatch(tokens, own, np.repeat(np.arange(len(rows) // G), G), 0)
    ours = our_reward(small, run, name, batch)
    texts = [small.tokenizers["gpt2"].decode(ids) for ids in rows]
    passages = None if name == "gpt2" else small.passages
    theirs = Theirs(small, name, optimizer, rate, passages)
    return run, ours, theirs, texts, (tokens, written)


def same(found, wanted, tolerance=1e-6):
    """Equal beside the largest: the weights of our metric's tokens are float32."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rewards_advantages_and_update_are_those_of_the_code(small, name, optimizer, steps):
    run, ours, theirs, texts, (tokens, written) = both(small, name, optimizer, steps)
    expected, exact, metric = theirs.rewards(texts)
    # The known factor: the examples of a microbatch.
    same(expected, exact * (B // K), 1e-9)
    same(ours.values, expected)
    assert ours.log["metric"] == pytest.approx(metric, rel=1e-6)

    advantages = group_advantages(ours.values, ours.groups, run.generator.advantage_eps)
    their_own = their_advantages(expected, ours.groups)
    same(advantages, their_own)

    model, params, _ = load(small.root / "llama")
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    prompts = np.random.default_rng(5).integers(3, 300, (len(texts) // G, P)).astype(np.int32)
    asked = np.concatenate([prompts.repeat(G, 0), tokens], 1)
    old = np.asarray(model.token_logprobs(params, asked, np.ones_like(asked, bool)))[:, P:]
    old = np.where(written, old, 0).astype(np.float32)
    rollouts = Rollouts(tokens=tokens, mask=written, logprobs=old)
    settings = run.generator.model_copy(update={"learning_rate": 1e-3})
    generator = JaxGenerator(model, params, settings, eos_id=1)
    generator.update(prompts, np.ones_like(prompts, bool), rollouts, advantages)
    after = their_update(small, prompts, tokens, written, old, their_own, settings)
    save(small.root / "moved", model, generator.params)
    moved, start = (
        {key: value.detach().numpy() for key, value in in_float64(folder).named_parameters()}
        for folder in (small.root / "moved", small.root / "llama")
    )
    for key, value in moved.items():
        wanted = after[key] - start[key]
        assert np.abs(wanted).max() > 1e-4
        np.testing.assert_allclose(value - start[key], wanted, rtol=0, atol=2e-6, err_msg=key)


def test_rewards_without_the_factor_would_give_other_advantages(small):
    """An epsilon of 1e-6 is not small beside rewards: their scale is part of the reading."""
    run, ours, theirs, texts, _ = both(small, "llama", "adam", 1, rate=1e-8)
    expected, exact, _ = theirs.rewards(texts)
    assert 1e-9 < expected.std() < 1e-7
    advantages = group_advantages(ours.values, ours.groups, run.generator.advantage_eps)
    same(advantages, their_advantages(expected, ours.groups))
    # In effect not normalised: of the size of the rewards over 1e-6.
    assert advantages.std() < 0.1
    without = their_advantages(exact, ours.groups)
    assert np.abs(without).max() < 0.6 * np.abs(advantages).max()


@pytest.mark.parametrize("variant", ["adam-T4-nogroups", "naive-T4"])
def test_without_cross_group_batching_each_dataset_is_cut_as_in_the_code(small, variant):
    run, ours, theirs, texts, _ = both(small, "gpt2", "adam", 4, variant)
    expected, metric = np.empty(len(texts)), np.empty(G)
    for g in range(G):
        found, _, metric[g] = theirs.rewards(texts[g::G])
        expected[g::G] = metric[g] if run.reward.kind == "naive" else found
    assert (run.set_steps, run.set_batch) == (1, B)
    if run.reward.kind == "naive":
        np.testing.assert_allclose(ours.values, expected, rtol=1e-9)
        assert len(np.unique(ours.groups)) == 1
    else:
        same(ours.values, expected)
    assert isinstance(ours, Rewards)
