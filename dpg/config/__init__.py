"""Every YAML of the project as a checked, immutable object.

Two files make a study. ``config/experiments.yaml`` says what the paper runs: each experiment's
metric, its variants and the hyperparameters of Tables 7 to 13, each with its source. A scale file
(``config/tiny.yaml``, ...) says at which size: models, text, and the values it overrides. `load`
merges the two, the scale file last, and `Study.runs` lists every generator run resolved to plain
numbers. A wrong key, type or range is a `ConfigError` that names the file, the key and what is
expected.
"""

from dpg.config.base import ConfigError, LanguageCode, Settings, leaves
from dpg.config.downstream import (
    CorpusSettings,
    CptSettings,
    DownstreamSettings,
    FolderReplay,
    HubReplay,
    PerplexitySettings,
    SftSettings,
    TrainingSettings,
    WheelReplay,
)
from dpg.config.learner import LearnerSettings
from dpg.config.models import (
    FinishedModel,
    FolderModel,
    HubModel,
    Model,
    PretrainingSettings,
    SmolLM2Model,
    Stream,
    TrainedModel,
)
from dpg.config.prompts import PromptSettings
from dpg.config.reward import LEARNED, RewardSettings
from dpg.config.run import (
    CustomMetric,
    GeneratorOptimizer,
    GeneratorSettings,
    LanguageMetric,
    Metric,
    NormMetric,
    PatternMetric,
    RunConfig,
    StringMetric,
    ValidationSettings,
)
from dpg.config.scale import (
    ENGINES,
    DebianPassages,
    Engine,
    FolderArticles,
    FolderPassages,
    Horizons,
    HubArticles,
    HubPassages,
    JudgeSettings,
    ReadingName,
    Requirements,
    ScaleFile,
    SweepSettings,
    TextSettings,
    WheelArticles,
)
from dpg.config.study import EXPERIMENTS_FILE, Study, derived, load, scale_files

__all__ = [
    "ENGINES",
    "EXPERIMENTS_FILE",
    "LEARNED",
    "ConfigError",
    "CorpusSettings",
    "CptSettings",
    "CustomMetric",
    "DebianPassages",
    "DownstreamSettings",
    "Engine",
    "FinishedModel",
    "FolderArticles",
    "FolderModel",
    "FolderPassages",
    "FolderReplay",
    "GeneratorOptimizer",
    "GeneratorSettings",
    "Horizons",
    "HubArticles",
    "HubModel",
    "HubPassages",
    "HubReplay",
    "JudgeSettings",
    "LanguageCode",
    "LanguageMetric",
    "LearnerSettings",
    "Metric",
    "Model",
    "NormMetric",
    "PatternMetric",
    "PerplexitySettings",
    "PretrainingSettings",
    "PromptSettings",
    "ReadingName",
    "Requirements",
    "RewardSettings",
    "RunConfig",
    "ScaleFile",
    "Settings",
    "SftSettings",
    "SmolLM2Model",
    "Stream",
    "StringMetric",
    "Study",
    "SweepSettings",
    "TextSettings",
    "TrainedModel",
    "TrainingSettings",
    "ValidationSettings",
    "WheelArticles",
    "WheelReplay",
    "derived",
    "leaves",
    "load",
    "scale_files",
]
