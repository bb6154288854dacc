"""What ``experiments.yaml`` holds: the study's experiments, their values and their sources."""

from typing import Annotated

from pydantic import Field

from dpg.config.base import Settings, Tree
from dpg.config.run import RunOverrides
from dpg.config.scale import HorizonName, ReadingName

Sources = dict[str, str]

_SOURCE = "where the values are from, such as a table of the paper; null = this file"
_SOURCES = "dotted key -> where its value is from, if not from `source`"


class Variant(RunOverrides):
    """One way to train the generator of an experiment."""

    horizon: HorizonName | None = Field(
        default=None,
        description="train the target for this T of the scale and name the variant after it;"
        " null = learner.steps as it is",
    )
    source: str | None = Field(default=None, description=_SOURCE)
    sources: Sources = Field(default_factory=dict, description=_SOURCES)


class Experiment(RunOverrides):
    """A metric, the values that its runs share, and its variants."""

    title: str | None = Field(default=None, description="title in figures; null = the name")
    section: Annotated[str, Field(coerce_numbers_to_str=True)] = Field(
        default="",
        description="section of the paper",
        json_schema_extra={"type": ["string", "number"]},
    )
    source: str | None = Field(default=None, description=_SOURCE)
    sources: Sources = Field(default_factory=dict, description=_SOURCES)
    variants: dict[str, Variant | None] = Field(
        default_factory=dict, description="what differs between the runs"
    )


class ReadingExperiment(RunOverrides):
    """The values of one experiment in a reading."""

    sources: Sources = Field(default_factory=dict, description=_SOURCES)


class Reading(Settings):
    """Values of settings where the paper's text and the authors' code differ."""

    source: str = Field(description="where the values are from, unless `sources` says otherwise")
    sources: Sources = Field(default_factory=dict, description=_SOURCES)
    defaults: RunOverrides = Field(
        default_factory=RunOverrides, description="values that all experiments share"
    )
    experiments: dict[str, ReadingExperiment] = Field(
        default_factory=dict, description="values of single experiments"
    )


class Readings(Settings):
    """The two readings of the paper; a scale's `reading` chooses one."""

    text: Reading = Field(description="the paper; the authors' code where it gives no value")
    code: Reading = Field(description="the authors' code as published")

    def named(self, name: ReadingName) -> Reading:
        """The reading of this name."""
        return self.text if name == "text" else self.code


class ExperimentsFile(Settings):
    """``experiments.yaml`` as written."""

    defaults: RunOverrides = Field(
        default_factory=RunOverrides, description="values that all experiments share"
    )
    sources: Sources = Field(default_factory=dict, description=_SOURCES)
    readings: Readings | None = Field(
        default=None,
        description="values where the paper's text and the authors' code differ; null = these"
        " experiments have one reading",
    )
    downstream: Tree | None = Field(
        default=None,
        description="the values of Table 1; their origins are under its key `sources`",
    )
    experiments: dict[str, Experiment] = Field(description="experiments by name, in their order")
