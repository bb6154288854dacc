"""The scale file laid over ``experiments.yaml``: each run's values, each with its source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpg.config.base import ConfigError, Tree
from dpg.config.downstream import DownstreamSettings
from dpg.config.experiments import Experiment, ExperimentsFile, ReadingExperiment, Variant
from dpg.config.explain import checked, nearest
from dpg.config.run import RunConfig
from dpg.config.scale import ExperimentOverrides, HorizonName, ScaleFile, VariantOverrides

# Dotted key -> where its value is from.
Sources = dict[str, str]

# Values under these keys are replaced as a whole.
_WHOLE = {"arguments"}
# When a layer changes this key of a section, the section starts empty: the keys of the layers below
# belong to the old kind.
_KINDS = {"metric": "kind", "replay": "source"}


class Layers:
    """Nested settings laid over each other, each leaf with the source of the value that won.

    Args:
        whole: the source of a value that is in no layer.
    """

    def __init__(self, whole: str):
        self.whole = whole
        self.values: Tree = {}
        self.sources: Sources = {}

    def add(self, layer: Tree, source: str, cited: Mapping[str, str] | None = None) -> None:
        """Lay one more layer over the others.

        Args:
            layer: nested settings; leaves replace those below, other keys stay.
            source: where its values are from.
            cited: dotted key -> source of the values that are from elsewhere.
        """
        self._add(self.values, layer, source, cited or {}, ())

    def _add(
        self,
        into: Tree,
        layer: Tree,
        source: str,
        cited: Mapping[str, str],
        at: tuple[str, ...],
    ) -> None:
        for key, value in layer.items():
            path = (*at, key)
            if isinstance(value, dict) and key not in _WHOLE:
                if not isinstance(into.get(key), dict) or _is_another_kind(key, into[key], value):
                    self._forget_sources(path)
                    into[key] = {}
                self._add(into[key], value, source, cited, path)
            else:
                self._forget_sources(path)
                into[key] = value
                dotted = ".".join(map(str, path))
                self.sources[dotted] = cited.get(dotted, source)

    def _forget_sources(self, path: tuple[str, ...]) -> None:
        """Take away the source of a key and of all that is below it."""
        dotted = ".".join(map(str, path))
        for name in [n for n in self.sources if n == dotted or n.startswith(dotted + ".")]:
            del self.sources[name]

    def value(self, *keys: str) -> Any:
        """The value under these keys; None if there is none."""
        found: Any = self.values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def where_is(self, dotted: str) -> str:
        """The source of the value set last at this key, above it or below it; else `whole`."""
        # Sources are in the order in which they were laid.
        for name, source in reversed(self.sources.items()) if dotted else ():
            if name == dotted or name.startswith(dotted + ".") or dotted.startswith(name + "."):
                return source
        return self.whole


def _is_another_kind(section: str, below: Tree, above: Tree) -> bool:
    kind = _KINDS.get(section)
    return kind is not None and above.get(kind) not in (None, below.get(kind))


class Files(NamedTuple):
    """Both files of a study, checked, with their paths."""

    path: Path
    scale: ScaleFile
    paper_path: Path
    paper: ExperimentsFile

    def needs_model(self, name: str, role: str) -> None:
        """Raise a `ConfigError` where the scale has no model of this name."""
        models = self.scale.models
        if name not in models:
            raise ConfigError(
                f"{self.path}: models: '{name}', {role}, is not there{nearest(name, models)}; "
                f"there are: {', '.join(models)}"
            )

    def needs_articles(self, run: RunConfig) -> None:
        """Raise a `ConfigError` where a run's prompts need more train articles than there are."""
        found, needed = self.scale.text.articles.train, run.prompts.needed
        if found < needed:
            raise ConfigError(
                f"{self.path}: {run.experiment}/{run.variant}: prompts: expected at least "
                f"{needed:,} train articles (articles = {run.prompts.articles}, sample = "
                f"{run.prompts.sample or 0}), got text.articles.train = {found:,}: raise it, or "
                "write prompts: {articles: null, sample: null}, which takes all of them"
            )


class Resolver:
    """Merges the two files into `RunConfig` objects, and remembers where each value is from.

    Raises:
        ConfigError: the scale file names an experiment or a variant that does not exist.
    """

    def __init__(self, files: Files):
        self.files = files
        self._readings_name_experiments()
        for name, overrides in files.scale.experiments.items():
            self._needs(name, files.paper.experiments, ("experiments", name), "experiment")
            variants = files.paper.experiments[name].variants
            for key in (overrides and overrides.variants) or {}:
                self._needs(key, variants, ("experiments", name, "variants", key), "variant")
            for key, extra in self._of_scale(name).extras.items():
                at = ("experiments", name, "extras", key)
                self._needs(extra.like, variants, (*at, "like"), "variant")
                if key in variants:
                    raise ConfigError(
                        f"{files.path}: {'.'.join(at)}: the experiment has a variant of this name; "
                        "give the run another name, or set the variant's values under `variants`"
                    )

    def _needs(self, name: str, known: Mapping[str, Any], at: tuple[str, ...], noun: str) -> None:
        if name not in known:
            raise ConfigError(
                f"{self.files.path}: {'.'.join(at)}: no such {noun}{nearest(name, known)}; "
                f"{self.files.paper_path} has: {', '.join(known)}"
            )

    def _readings_name_experiments(self) -> None:
        paper = self.files.paper
        readings = {} if paper.readings is None else dict(paper.readings)
        for reading, given in readings.items():
            for name in given.experiments:
                if name not in paper.experiments:
                    raise ConfigError(
                        f"{self.files.paper_path}: readings.{reading}.experiments.{name}: no such "
                        f"experiment{nearest(name, paper.experiments)}; there are: "
                        f"{', '.join(paper.experiments)}"
                    )

    def experiment_names(self) -> list[str]:
        """The experiments to run: those that the scale file names, or all if it names none."""
        chosen = self.files.scale.experiments
        return [n for n in self.files.paper.experiments if not chosen or n in chosen]

    def variant_names(self, name: str) -> list[str]:
        """The variants to run: those that the scale file lists, or all of the paper's."""
        chosen = self._of_scale(name).variants
        variants = self.files.paper.experiments[name].variants
        return [key for key in variants if chosen is None or key in chosen]

    def extra_names(self, name: str) -> list[str]:
        """The runs beside the study that the scale file lists for an experiment."""
        return list(self._of_scale(name).extras)

    def seeds(self, name: str, key: str) -> list[int]:
        """The seeds of a variant: its own, or else the scale's; of an extra run, the first."""
        extra = self._of_scale(name).extras.get(key)
        own = (extra or self._of_scale_variant(name, key)).seeds
        usual = self.files.scale.seeds
        return (usual if extra is None else usual[:1]) if own is None else own

    def _of_scale(self, name: str) -> ExperimentOverrides:
        return self.files.scale.experiments.get(name) or ExperimentOverrides()

    def _of_scale_variant(self, name: str, key: str) -> VariantOverrides:
        return (self._of_scale(name).variants or {}).get(key) or VariantOverrides()

    def resolve(self, name: str, key: str, seed: int) -> tuple[RunConfig, Sources]:
        """One run, and where each of its values is from.

        Args:
            name: of the experiment.
            key: of the variant in ``experiments.yaml``, or of an extra run of the scale.
            seed: of the run.

        Raises:
            ConfigError: a value is missing or wrong, or the scale does not have the model.
        """
        scale = self.files.scale
        experiment = self.files.paper.experiments[name]
        extra = self._of_scale(name).extras.get(key)
        like = key if extra is None else extra.like
        variant = experiment.variants[like] or Variant()
        layers = self._layers(name, like, experiment, variant)
        if extra is not None:
            layers.add(extra.layer(), str(self.files.path))
        variant_name = key
        if variant.horizon is not None:
            steps = scale.horizons.steps(variant.horizon)
            variant_name = key.replace(variant.horizon, f"T{steps}", 1)
            self._add_horizon(layers, variant.horizon)
        if layers.value("validation", "steps") is None:
            longest = scale.horizons.long if variant.horizon else layers.value("learner", "steps")
            layers.add({"validation": {"steps": longest}}, "the longest T")
        values = {
            "scale": scale.scale,
            "experiment": name,
            "variant": variant_name,
            "title": name if experiment.title is None else experiment.title,
            "section": experiment.section,
            "seed": seed,
            "prompt_style": scale.prompt_style,
            **layers.values,
        }
        run = checked(RunConfig, values, layers.where_is, subject=f"{name}/{variant_name}")
        self.files.needs_model(run.generator.model, f"the generator model of '{name}'")
        self.files.needs_model(run.learner.model, f"the learner model of '{name}'")
        self.files.needs_articles(run)
        return run, layers.sources

    def _layers(self, name: str, key: str, experiment: Experiment, variant: Variant) -> Layers:
        """What both files say about a variant, from the most general to the most specific."""
        path, scale, paper_path, paper = self.files
        own = experiment.source or str(paper_path)
        layers = Layers(whole=str(path))
        layers.add(paper.defaults.layer(), str(paper_path), paper.sources)
        layers.add(experiment.layer(), own, experiment.sources)
        layers.add(variant.layer(), variant.source or own, variant.sources)
        self._add_reading(layers, name)
        for overrides in (scale.defaults, self._of_scale(name), self._of_scale_variant(name, key)):
            layers.add(overrides.layer(), str(path))
        return layers

    def _add_reading(self, layers: Layers, name: str) -> None:
        """The values of the scale's reading, general and of this experiment."""
        readings, chosen = self.files.paper.readings, self.files.scale.reading
        if readings is None:
            if chosen != "text":
                raise ConfigError(
                    f"{self.files.path}: reading: '{chosen}' needs a section `readings` in "
                    f"{self.files.paper_path}, which has none; write reading: text"
                )
            return
        reading = readings.named(chosen)
        own = reading.experiments.get(name) or ReadingExperiment()
        for overrides, sources in ((reading.defaults, reading.sources), (own, own.sources)):
            cited = {key: f"{source} (reading: {chosen})" for key, source in sources.items()}
            layers.add(overrides.layer(), f"{reading.source} (reading: {chosen})", cited)

    def _add_horizon(self, layers: Layers, horizon: HorizonName) -> None:
        """Set T, and give a shorter T more GRPO steps: M x T is constant.

        So is the number of examples between two validations, where `every_grows`.
        """
        horizons = self.files.scale.horizons
        steps = horizons.steps(horizon)
        layers.add({"learner": {"steps": steps}}, f"{self.files.path}: horizons.{horizon}")
        ratio = horizons.long // steps
        grown = [("generator", "grpo_steps")]
        if layers.value("validation", "every_grows") is not False:
            grown.append(("validation", "every"))
        for section, leaf in grown:
            value = layers.value(section, leaf)
            if isinstance(value, int) and ratio > 1:
                source = layers.sources.get(f"{section}.{leaf}", "")
                scaled = {section: {leaf: value * ratio}}
                layers.add(scaled, f"{source}, x {ratio} (M x T constant)")


def resolve_downstream(files: Files) -> tuple[DownstreamSettings | None, Sources]:
    """The settings of Table 1 and where each is from; None where the scale has no such section.

    Raises:
        ConfigError: a value is missing or wrong, or the scale does not have a target model.
    """
    path, scale, paper_path, paper = files
    if scale.downstream is None:
        return None, {}
    base = dict(paper.downstream or {})
    cited = base.pop("sources", {})
    layers = Layers(whole=str(path))
    layers.add(base, str(paper_path), cited)
    layers.add(scale.downstream, str(path))
    settings = checked(DownstreamSettings, layers.values, layers.where_is, below=("downstream",))
    for target in settings.targets:
        files.needs_model(target, "a target of downstream.targets")
    return settings, layers.sources
