"""Settings and fixtures of all tests: one thread per process, no hub, 32-bit by default.

Tests of exactness switch to 64 bits themselves. The fast tests compile many programs and run each
once or twice, so XLA does not optimise them.

`--time-budget SECONDS` skips each test that would start after that time.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_START = time.monotonic()

EXPERIMENTS = Path(__file__).resolve().parents[1] / "config" / "experiments.yaml"

SCALE = """
scale: test
text:
  articles: {source: folder, folder: articles, train: 40, validation: 40}
  passages: {source: folder, folder: passages}
prompt_style: prefix
models:
  llama-instruct: {source: folder, folder: llama}
  gpt2: {source: folder, folder: gpt2}
horizons: {long: 4, middle: 2, short: 1}
defaults:
  checkpoint_every: 2
  generator:
    grpo_steps: 5
    prompt_tokens: 4
    response_tokens: 6
    mini_batch_prompts: 2
    learning_rate: 1e-3
    advantage_eps: 0.0
    loss_mean: tokens
  learner:
    batch_size: 8
    learning_rate: 1e-3
    example_length: response
    order: prompts
    order_seed: null
  validation: {every: 2, kept: 4}
  prompts: {articles: null, sample: null}
experiments:
  sixseven: {variants: {adam-long: , adam-long-nogroups: , sgd-long: , naive-long: }}
  norm: {variants: {adam-long: }}
  lambada-es: {variants: {adam: }}
  uuid: {variants: {adam: }}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="skip the tests that would start later than this after the first was collected",
    )

    parser.addoption(
        "--record-revisions",
        action="store_true",
        help="record the numbers of steps whose revision was raised (tests/revisions)",
    )
    for name, default, text in (
        ("--kills", 5, "SIGKILLs over a smoke study (tests/faults)"),
        ("--bodies", 1000, "malformed bodies at the reward server (tests/faults)"),
        ("--calls", 1000, "calls of the judge, a tenth with a fault (tests/faults)"),
        ("--fault-seed", 0, "of the random faults (tests/faults)"),
    ):
        parser.addoption(name, type=int, default=default, help=text)
    parser.addoption(
        "--undisturbed",
        metavar="FOLDER",
        help="results of a smoke study of this very code, instead of making them (tests/faults)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in config.option.markexpr:
        # Read when JAX starts, which no import of a test does.
        flags = (
            "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
            "--xla_cpu_parallel_codegen_split_count=1"
        )
        os.environ.setdefault("XLA_FLAGS", flags)
        os.environ.setdefault("DPG_XLA_FLAGS", flags)  # for commands in processes of their own


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--time-budget")
    if budget is not None and time.monotonic() - _START > budget:
        pytest.skip(f"the time budget of {budget:.0f} s is spent")


_RESIDENT_LIMIT = 2e9  # bytes of a test process


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs() -> Iterator[None]:
    """Drop the compiled programs at the end of a test file if the process is large.

    If they were never dropped, they would grow to several GB. If they were dropped after every
    file, each file would compile again the operations that all files use.
    """
    yield
    if "jax" in sys.modules and psutil.Process().memory_info().rss > _RESIDENT_LIMIT:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def float64():
    """Let JAX compute in 64 bits."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


class CheckedPage(HTMLParser):
    """Reads a page strictly: every element is closed where it must be, every id is there once."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input", "col"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.resources, self.faults = [], [], [], [], []
        self.words, self.tags = [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        named = [found.get(key) for key in ("src", "srcset", "data", "poster", "xlink:href")]
        named += [found.get("href")] if tag != "a" else []
        self.resources += [value for value in named if value]
        self.resources += re.findall(r"url\(([^)]*)\)", found.get("style") or "")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="session")
def checked_page():
    """The class `CheckedPage`."""
    return CheckedPage


@pytest.fixture(scope="session")
def wait_until():
    """A function that waits for a condition; it fails if a given process ends before."""

    def wait(condition, seconds=300.0, process=None):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s"
            assert process is None or process.poll() is None, "the process ended before"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A whole study with random models and made-up words, small enough to run in seconds.

    `root` is its folder, `study` its configuration, `inputs(run)` the files of a run.
    """
    import jax
    import numpy as np
    import pandas as pd

    from dpg import artifacts, config
    from dpg.generators.engine import RunInputs
    from dpg.models import LanguageModel, save
    from dpg.models import tokenizer as tokenizers
    from dpg.models.gpt2 import Gpt2Config
    from dpg.models.llama import LlamaConfig

    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(100)]
    texts = [" ".join(rng.choice(words, 20)) for _ in range(80)]
    tokenizer = tokenizers.train(texts, vocab_size=300)
    V = tokenizer.vocab_size
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    shapes = {
        "llama": LlamaConfig(V, 16, 1, 2, 1, intermediate_size=24, context=64, **ends),
        "gpt2": Gpt2Config(V, 16, 1, 2, context=64, intermediate_size=32, **ends),
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        model = LanguageModel(shape)
        save(root / name, model, model.init(jax.random.key(seed)), tokenizer)
    articles = pd.DataFrame({"id": [f"a{i}" for i in range(80)], "title": "t", "text": texts})
    articles = articles.assign(language="en", split=["train"] * 40 + ["validation"] * 40)
    artifacts.write_table(root / "articles.parquet", articles)
    passages = pd.DataFrame({"id": [f"p{i}" for i in range(12)], "text": texts[:12]})
    passages = passages.assign(language="es", source="x", split="train")
    artifacts.write_table(root / "passages.parquet", passages)
    (root / "test.yaml").write_text(SCALE)
    (root / "experiments.yaml").write_text(EXPERIMENTS.read_text())
    study = config.load(root / "test.yaml")

    def inputs(run):
        target = "gpt2" if run.learner.model == "gpt2" else "llama"
        return RunInputs(
            generator=root / "llama",
            target=root / target,
            articles=root / "articles.parquet",
            passages=root / "passages.parquet",
        )

    def options(run):
        """The same files as options of the command line."""
        found = inputs(run)
        names = ("generator", "target", "articles", "passages")
        return [word for name in names for word in (f"--{name}", str(getattr(found, name)))]

    return SimpleNamespace(root=root, study=study, inputs=inputs, options=options)
