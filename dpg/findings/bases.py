"""The runs that findings start from: a study's Adam and SGD runs of the 67 and of a language."""

from __future__ import annotations

from dpg.config import LanguageMetric, RunConfig, Study
from dpg.errors import DpgError
from dpg.study.sweeps import LANGUAGE

PATTERN = "sixseven"


def language_pair(study: Study) -> tuple[RunConfig, RunConfig]:
    """The Adam run and the SGD run of one language and the first seed.

    The language is Spanish if the study has it, else the first with both runs.

    Raises:
        DpgError: no language has both runs.
    """
    languages = [run.experiment for run in study.runs if isinstance(run.metric, LanguageMetric)]
    for experiment in dict.fromkeys([*([LANGUAGE] if LANGUAGE in languages else []), *languages]):
        found = {run.variant: run for run in _first_seed(study, experiment)}
        if "adam" in found and "sgd" in found:
            return found["adam"], found["sgd"]
    raise DpgError(
        f"{study.path}: this finding needs the variants adam and sgd of one language, such as "
        f"{LANGUAGE}; name both under `experiments`"
    )


def pattern_pair(study: Study) -> tuple[RunConfig, RunConfig]:
    """The Adam run and the SGD run of the 67 at the second longest T, or at the only T.

    At the longest T both show the whole picture, so they differ only below it.

    Raises:
        DpgError: no T has both runs.
    """
    runs = _first_seed(study, PATTERN)
    pairs = [
        (adam, sgd)
        for adam in runs
        for sgd in runs
        if (adam.variant, sgd.variant)
        == (f"adam-T{adam.learner.steps}", f"sgd-T{adam.learner.steps}")
    ]
    if not pairs:
        raise DpgError(
            f"{study.path}: this finding needs the variants adam and sgd of {PATTERN} at one T; "
            "name both under `experiments`"
        )
    longest_first = sorted(pairs, key=lambda pair: -pair[0].learner.steps)
    return longest_first[min(1, len(pairs) - 1)]


def _first_seed(study: Study, experiment: str) -> list[RunConfig]:
    seed = study.scale.seeds[0]
    return [run for run in study.runs if run.experiment == experiment and run.seed == seed]
