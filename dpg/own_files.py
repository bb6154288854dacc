"""The user's own files that settings name: what is made of them depends on each of them.

The workflow asks here before it starts anything, so importing this module loads no jax.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dpg.config import (
    DebianPassages,
    FolderArticles,
    FolderModel,
    FolderPassages,
    FolderReplay,
    HubArticles,
    HubPassages,
    HubReplay,
    Model,
    RunConfig,
    WheelArticles,
    WheelReplay,
)
from dpg.text import passages, wikipedia

TextSource = (
    WheelArticles
    | HubArticles
    | FolderArticles
    | DebianPassages
    | HubPassages
    | FolderPassages
    | WheelReplay
    | HubReplay
    | FolderReplay
)
"""Where articles, passages or replay text come from, as a scale's settings say."""


def of_text(source: TextSource) -> list[Path]:
    """The files that a source of text reads, sorted; none for a source that is no folder.

    None, too, for a folder that is missing: the step that reads it says so.
    """
    if isinstance(source, FolderPassages):
        return passages.passage_files(source.folder)
    if isinstance(source, FolderArticles | FolderReplay):
        return wikipedia.article_files(source.folder)
    return []


def of_model(settings: Model) -> list[Path]:
    """The files of a model, sorted; none for a model that comes from no folder of the user's.

    None, too, for a folder that is missing: the step that reads it says so.
    """
    if not isinstance(settings, FolderModel):
        return []
    try:
        return sorted(path for path in settings.folder.iterdir() if path.is_file())
    except OSError:
        return []


def of_run(run: RunConfig) -> list[Path]:
    """The files that a run's settings name, as far as they are there.

    An image of a pattern, a reward model in a file or folder, and the Python file of a custom
    metric or reward (not the files that it imports in turn).
    """
    model = None if run.reward.made_here else run.reward.model
    named = [model, getattr(run.metric, "image", None)]
    modules = [run.reward.path, getattr(run.metric, "path", None)]
    paths = [Path(name) for name in named if name] + [_file_of(name) for name in modules if name]
    return [path for path in paths if path is not None and path.exists()]


def _file_of(dotted: str) -> Path | None:
    """The file of `package.module:function`; None where there is none: whoever imports it says so.

    The module itself is not imported, the packages around it are.
    """
    try:
        spec = importlib.util.find_spec(dotted.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
