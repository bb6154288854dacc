"""The study: a scale file merged into ``experiments.yaml``, with every run resolved."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dpg.config import yaml
from dpg.config.base import ConfigError, Tree
from dpg.config.downstream import METHODS, DownstreamSettings
from dpg.config.experiments import ExperimentsFile
from dpg.config.explain import checked, nearest
from dpg.config.merge import Files, Resolver, Sources, resolve_downstream
from dpg.config.run import LanguageMetric, RunConfig
from dpg.config.scale import Engine, ReadingName, ScaleFile

EXPERIMENTS_FILE = Path("config/experiments.yaml")


class Study:
    """Every run of a study, resolved.

    Attributes:
        scale: the checked scale file.
        path: the scale file's path.
        downstream: the settings of Table 1; None where the scale has no section `downstream`.
        downstream_sources: dotted key -> where its value is from.

    Args:
        keys: path of a run -> key of its variant in ``experiments.yaml``; None if `named` is not
            called.
        extras: path of a run -> its configuration, of the runs beside the study.
    """

    def __init__(
        self,
        path: Path,
        scale: ScaleFile,
        runs: Mapping[str, RunConfig],
        sources: Mapping[str, Sources],
        downstream: DownstreamSettings | None,
        downstream_sources: Sources,
        keys: Mapping[str, str] | None = None,
        extras: Mapping[str, RunConfig] | None = None,
    ):
        self.path, self.scale, self._runs, self._sources = path, scale, runs, sources
        self.downstream, self.downstream_sources = downstream, downstream_sources
        self._keys, self._extras = keys or {}, extras or {}

    def with_engine(self, engine: Engine) -> "Study":
        """The same study with another engine, as `dpg doctor --engine` asks about."""
        scale = self.scale.model_copy(update={"engine": engine})
        return Study(
            self.path,
            scale,
            self._runs,
            self._sources,
            self.downstream,
            self.downstream_sources,
            self._keys,
            self._extras,
        )

    @property
    def runs(self) -> list[RunConfig]:
        """Every generator run, in the order of ``experiments.yaml`` and of the seeds."""
        return list(self._runs.values())

    @property
    def extras(self) -> list[RunConfig]:
        """The runs beside the study: in no figure and no claim, made on request."""
        return list(self._extras.values())

    @property
    def every_run(self) -> list[RunConfig]:
        """The generator runs of the study, then those beside it."""
        return [*self.runs, *self.extras]

    @property
    def language_runs(self) -> list[RunConfig]:
        """The generator runs with a language metric that Table 1 can have, of all seeds."""
        runs = [run for run in self.runs if isinstance(run.metric, LanguageMetric)]
        return [run for run in runs if run.variant in METHODS]

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of all runs, in ascending order: the scale's and those of single variants."""
        return sorted({run.seed for run in self.runs})

    def run(self, experiment: str, variant: str, seed: int) -> RunConfig:
        """The run of this name, of the study or beside it.

        Raises:
            ConfigError: there is no such run; lists those that exist.
        """
        every = self.every_run
        experiments = sorted({run.experiment for run in every})
        if experiment not in experiments:
            raise ConfigError(
                f"{self.path}: no experiment '{experiment}'{nearest(experiment, experiments)}; "
                f"there are: {', '.join(experiments)}"
            )
        runs = [run for run in every if run.experiment == experiment]
        variants = list(dict.fromkeys(run.variant for run in runs))
        if variant not in variants:
            raise ConfigError(
                f"{self.path}: experiment '{experiment}' has no variant '{variant}'"
                f"{nearest(variant, variants)}; there are: {', '.join(variants)}"
            )
        of_seed = {run.seed: run for run in runs if run.variant == variant}
        if seed not in of_seed:
            raise ConfigError(
                f"{self.path}: '{experiment}/{variant}' has no seed {seed}; its `seeds` are "
                f"{', '.join(map(str, of_seed))}"
            )
        return of_seed[seed]

    def named(self, run: RunConfig) -> str:
        """A run's name that every scale has, such as ``sixseven/adam-long`` for adam-T96."""
        return f"{run.experiment}/{self._keys[run.path]}"

    def prompt_epochs(self, run: RunConfig) -> float:
        """How often a run goes through its train articles ("GRPO Train Epochs", Appendix E)."""
        articles = run.prompts.articles or self.scale.text.articles.train
        return run.generator.grpo_steps * run.prompts_per_step / articles

    def sources(self, run: RunConfig) -> Sources:
        """Dotted key -> where its value is from (a table of the paper, a file, ...)."""
        return self._sources[run.path]


def load(
    path: str | Path,
    experiments: str | Path | None = None,
    *,
    reading: ReadingName | None = None,
) -> Study:
    """Read and check a scale file together with the experiments' file.

    Args:
        path: a scale file, such as ``config/tiny.yaml``.
        experiments: the experiments' file; by default the scale file's `experiments_file`, or else
            ``experiments.yaml`` beside the scale file, or else the repository's own.
        reading: used instead of the scale's own.

    Raises:
        ConfigError: a file is missing or is not YAML, or has an unknown key, a wrong type or a
            value out of range; names the file, the key and what is expected.
    """
    files = _read(Path(path), None if experiments is None else Path(experiments))
    if reading is not None:
        files = files._replace(scale=files.scale.model_copy(update={"reading": reading}))
    resolver = Resolver(files)
    runs, sources, keys = _runs(resolver, resolver.variant_names)
    extras, extra_sources, extra_keys = _runs(resolver, resolver.extra_names)
    if not runs:
        raise ConfigError(f"{files.path}: `experiments` selects no run; name a variant in it")
    settings, origins = resolve_downstream(files)
    study = Study(
        files.path,
        files.scale,
        runs,
        sources | extra_sources,
        settings,
        origins,
        keys | extra_keys,
        extras,
    )
    _check_generators(study)
    return study


def _check_generators(study: Study) -> None:
    """Raises ConfigError if `downstream.generators` names a run that Table 1 cannot have."""
    wanted = study.downstream and study.downstream.generators
    names = list(dict.fromkeys(run.seedless for run in study.language_runs))
    if unknown := sorted(set(wanted or ()) - set(names)):
        raise ConfigError(
            f"{study.path}: downstream.generators has '{unknown[0]}', which is no generator of a "
            f"language{nearest(unknown[0], names)}; there are: {', '.join(names)}"
        )


def _read(path: Path, experiments: Path | None) -> Files:
    scale = checked(ScaleFile, _scale_tree(path), path)
    paper_path = experiments or _experiments_file(path, scale)
    hint = "write one beside the scale file, or run this in the repository's folder"
    paper = checked(ExperimentsFile, yaml.read(paper_path, if_missing=hint), paper_path)
    return Files(path, scale, paper_path, paper)


def _scale_tree(path: Path) -> Tree:
    return yaml.read(path, if_missing=_way_out(path))


def scale_files() -> list[Path]:
    """The scale files in ``config/`` of the working folder, the quick ones first."""
    found = set(EXPERIMENTS_FILE.parent.glob("*.yaml")) - {EXPERIMENTS_FILE}
    first = ("tiny", "smoke")
    return sorted(found, key=lambda path: (path.stem not in first, path.stem != first[0], path))


def _way_out(path: Path) -> str:
    """What to do where a scale file is missing."""
    scales = list(map(str, scale_files()))
    if not scales:
        return (
            f"this folder has no {EXPERIMENTS_FILE.parent}/ either, so it is no clone of the "
            "repository: run the command in one, or name a scale file of your own"
        )
    folder = EXPERIMENTS_FILE.parent
    return f"the scales in {folder}/ are: {', '.join(scales)}{nearest(str(path), scales)}"


def _experiments_file(path: Path, scale: ScaleFile) -> Path:
    if scale.experiments_file is not None:
        return scale.experiments_file
    beside = path.parent / EXPERIMENTS_FILE.name
    return beside if beside.is_file() else EXPERIMENTS_FILE


def _runs(
    resolver: Resolver, names: Callable[[str], list[str]]
) -> tuple[dict[str, RunConfig], dict[str, Sources], dict[str, str]]:
    """Three mappings by a run's path: the run, the sources of its values, its variant's key.

    Args:
        resolver: of the study's files.
        names: experiment -> the keys of the runs that are wanted.
    """
    files = resolver.files
    runs: dict[str, RunConfig] = {}
    sources: dict[str, Sources] = {}
    keys: dict[str, str] = {}
    for name in resolver.experiment_names():
        for key in names(name):
            for seed in resolver.seeds(name, key):
                run, origins = resolver.resolve(name, key, seed)
                if run.path in runs:
                    raise ConfigError(
                        f"{files.path}: two variants of '{name}' are called {run.variant}; rename "
                        f"one of them in {files.paper_path}"
                    )
                runs[run.path], sources[run.path], keys[run.path] = run, origins, key
    return runs, sources, keys


def derived(
    path: str | Path,
    *,
    seeds: int | None = None,
    only: int | None = None,
    seeds_of: Mapping[str, int] | None = None,
) -> str:
    """The text of a copy of a scale file with other seeds; it may be written to any folder.

    The copy keeps the scale's name, so its results go to the same folder. It names the experiments'
    file of the original, so it need not lie beside it. Its paths are relative to the working
    directory, as in every scale file.

    Args:
        path: a scale file.
        seeds: how many seeds: 0, 1, ... seeds - 1. Variants with `seeds` of their own keep them.
        only: instead of `seeds`, one seed: only the study's runs with this seed. Table 1 is made
            from the first seed, so it is left out for any other.
        seeds_of: beside `seeds`: a variant, such as ``sixseven/adam-long`` -> how many seeds it has
            of its own.

    Raises:
        ConfigError: a number of seeds is below 1, the study has no run of the seed `only` or no
            variant of `seeds_of`, or the file cannot be used.
    """
    if (seeds is None) == (only is None):
        raise ConfigError("expected one of --seeds and --only")
    own = dict(seeds_of or {})
    for count in (seeds, *own.values()):
        if count is not None and count < 1:
            raise ConfigError(f"expected at least 1 seed, got {count}")
    path = Path(path)
    tree = _scale_tree(path)
    experiments = _experiments_file(path, checked(ScaleFile, tree, path))
    if seeds is not None:
        more = "".join(f", {count} of {name}" for name, count in own.items())
        words = f"with {seeds} seeds{more}"
        changed: Tree = {"seeds": list(range(seeds))} | _of_variants(path, tree, own)
    elif own:
        raise ConfigError("--seeds-of goes with --seeds, not with --only")
    else:
        assert only is not None
        words, changed = f"with seed {only} alone", _of_seed(path, tree, only)
    note = f"# Made from {path}, {words}. Do not edit: change that file instead.\n"
    return note + yaml.dump(tree | changed | {"experiments_file": str(experiments)})


def _of_variants(path: Path, tree: Tree, counts: Mapping[str, int]) -> Tree:
    """The changes to a scale file after which these variants have so many seeds of their own."""
    if not counts:
        return {}
    resolver = Resolver(_read(path, None))
    names = {name: resolver.variant_names(name) for name in resolver.experiment_names()}
    keys = [f"{name}/{key}" for name, variants in names.items() for key in variants]
    # A file that names no experiment, or no variant of one, runs all of them.
    experiments: Tree = dict(tree.get("experiments") or dict.fromkeys(names))
    for named, count in counts.items():
        if named not in keys:
            raise ConfigError(
                f"{path} has no variant '{named}'{nearest(named, keys)}; there are: "
                f"{', '.join(keys)}"
            )
        experiment, _, key = named.partition("/")
        own: Tree = dict(experiments[experiment] or {})
        variants: Tree = own.get("variants") or dict.fromkeys(names[experiment])
        with_seeds = (variants[key] or {}) | {"seeds": list(range(count))}
        experiments[experiment] = own | {"variants": variants | {key: with_seeds}}
    return {"experiments": experiments}


def _of_seed(path: Path, tree: Tree, seed: int) -> Tree:
    """The changes to a scale file after which its study has only the runs with one seed."""
    study = load(path)
    if seed not in study.all_seeds:
        raise ConfigError(
            f"{path} has no run of seed {seed}; its seeds are "
            f"{', '.join(map(str, study.all_seeds))}"
        )
    keys: dict[str, set[str]] = {}
    for run in study.runs:
        if run.seed == seed:
            experiment, _, key = study.named(run).partition("/")
            keys.setdefault(experiment, set()).add(key)
    files = tree.get("experiments") or {}
    experiments: Tree = {}
    for name, variants in keys.items():
        own: Tree = dict(files.get(name) or {})
        there: Tree = own.get("variants") or {}
        chosen = {key: (there.get(key) or {}) | {"seeds": None} for key in sorted(variants)}
        in_order = [key for key in there if key in chosen] or list(chosen)
        experiments[name] = own | {"variants": {key: chosen[key] for key in in_order}}
    changed: Tree = {"seeds": [seed], "experiments": experiments}
    if seed != study.all_seeds[0]:
        changed["downstream"] = None
    return changed
