"""Every value that differs between two studies, with its source: two scales, or two readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from dpg.config.base import ConfigError, leaves
from dpg.config.explain import nearest
from dpg.config.merge import Sources
from dpg.config.study import Study

SCALE, DOWNSTREAM = "scale", "downstream"
ABSENT = "absent"
"""The value of a key that one side does not have, such as a key of another kind of metric."""

# Left out of the runs: the scale's own values, shown under "scale", and names, in the heading.
_NOT_OF_A_RUN = {"scale", "experiment", "variant", "seed", "prompt_style"}
_NOT_OF_A_SCALE = {"defaults", "experiments", "downstream", "experiments_file"}


class Value(NamedTuple):
    """A value and where it is from."""

    value: Any
    source: str


class Difference(NamedTuple):
    """A key whose values differ."""

    key: str
    left: Value
    right: Value


class Group(NamedTuple):
    """Differences that the same parts share: "scale", "downstream", or runs."""

    parts: tuple[str, ...]
    differences: tuple[Difference, ...]


class Comparison(NamedTuple):
    """Two studies beside each other.

    Attributes:
        groups: what differs, in the order of the parts.
        only: the parts that only the left study has, and those that only the right study has.
        compared: the parts that both have.
    """

    groups: tuple[Group, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    compared: tuple[str, ...]

    def names(self, parts: tuple[str, ...]) -> str:
        """Parts in words: an experiment with all of its variants is named once."""
        runs = [name for name in self.compared if "/" in name]
        if len(parts) > 1 and set(parts) == set(runs):
            return "all runs"
        found: dict[str, None] = {}
        for name in parts:
            experiment = name.partition("/")[0]
            siblings = {run for run in runs if run.startswith(f"{experiment}/")}
            whole = len(siblings) > 1 and siblings <= set(parts)
            found[f"{experiment} (all variants)" if whole else name] = None
        return ", ".join(found)


def compare(
    left: Study, right: Study, part: str | None = None, given: Mapping[str, str] | None = None
) -> Comparison:
    """Every value that differs between two studies.

    A run is compared with the run of the same variant in ``experiments.yaml``, even if T differs.
    If a variant has several seeds, the first is compared.

    Args:
        left, right: the studies, such as those of two scale files.
        part: "scale", "downstream", an experiment, or a run by either name, such as
            sixseven/adam-long or sixseven/adam-T8 (looked up in `left` first); None compares all.
        given: key of the scale -> source of a value that is in neither file.

    Raises:
        ConfigError: neither study has the part.
    """
    sides = [_explained(study, given or {}) for study in (left, right)]
    if part is not None:
        chosen = _chosen(part, left, right, sides)
        sides = [{name: side[name] for name in side if name in chosen} for side in sides]
    both = [name for name in sides[0] if name in sides[1]]
    found = {name: _differences(sides[0][name], sides[1][name]) for name in both}
    only = (
        tuple(name for name in sides[0] if name not in sides[1]),
        tuple(name for name in sides[1] if name not in sides[0]),
    )
    return Comparison(tuple(_groups(found)), only, tuple(both))


def _chosen(part: str, left: Study, right: Study, sides: list[dict[str, Any]]) -> set[str]:
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    chosen = {name for name in names if name == part or name.startswith(f"{part}/")}
    for study in (left, right):
        chosen = chosen or {study.named(run) for run in study.runs if run.seedless == part}
    if not chosen:
        known = list(dict.fromkeys(name.partition("/")[0] for name in names))
        raise ConfigError(
            f"neither {left.path} nor {right.path} has '{part}'{nearest(part, [*known, *names])}; "
            f"there are: {', '.join(known)}, and the runs of each experiment"
        )
    return chosen


def _explained(study: Study, given: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    """Every value of a study by part and dotted key."""
    of_scale = dict(_of_scale(study.scale, str(study.path)))
    of_scale |= {key: Value(of_scale[key].value, given[key]) for key in given if key in of_scale}
    parts = {SCALE: of_scale}
    for run in study.runs:
        name = study.named(run)
        if name not in parts:
            values = _with_sources(run, study.sources(run))
            parts[name] = {k: v for k, v in values.items() if k not in _NOT_OF_A_RUN}
    if study.downstream is not None:
        parts[DOWNSTREAM] = _with_sources(study.downstream, study.downstream_sources)
    return parts


def _with_sources(settings: BaseModel, sources: Sources) -> dict[str, Value]:
    return {key: Value(value, sources.get(key, "default")) for key, value in leaves(settings)}


def _of_scale(
    settings: BaseModel, origin: str, at: tuple[str, ...] = ()
) -> Iterator[tuple[str, Value]]:
    """The values of a scale file's own sections: from the file, or the default."""
    for name in type(settings).model_fields:
        path, value = (*at, name), getattr(settings, name)
        if not at and name in _NOT_OF_A_SCALE:
            continue
        if isinstance(value, BaseModel):
            yield from _of_scale(value, origin, path)
        elif isinstance(value, dict):
            for key, one in value.items():
                if isinstance(one, BaseModel):
                    yield from _of_scale(one, origin, (*path, key))
                else:
                    yield ".".join((*path, key)), Value(one, origin)
        else:
            source = origin if name in settings.model_fields_set else "default"
            yield ".".join(path), Value(value, source)


def _differences(left: dict[str, Value], right: dict[str, Value]) -> list[Difference]:
    none = Value(ABSENT, "-")
    pairs = (
        Difference(key, left.get(key, none), right.get(key, none))
        for key in dict.fromkeys([*left, *right])
    )
    return [pair for pair in pairs if pair.left.value != pair.right.value]


def _groups(found: Mapping[str, list[Difference]]) -> Iterator[Group]:
    """Each difference once, grouped by the parts that share it."""
    shared: dict[tuple[str, str], tuple[Difference, list[str]]] = {}
    for name, differences in found.items():
        for one in differences:
            # `repr`, since a list or a mapping cannot be a dictionary's key.
            kind = name if name in (SCALE, DOWNSTREAM) else "run"
            shared.setdefault((kind, repr(one)), (one, []))[1].append(name)
    together: dict[tuple[str, ...], list[Difference]] = {}
    for one, names in shared.values():
        together.setdefault(tuple(names), []).append(one)
    for parts, differences in together.items():
        yield Group(parts, tuple(differences))
