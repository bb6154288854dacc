"""The user's own files that the settings name, so that results can depend on each of them.

The workflow reads this list before it starts anything, so importing this module does not load JAX.
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
"""The settings of a source of articles, passages or replay text."""


def of_text(source: TextSource) -> list[Path]:
    """The files that a source of text reads, sorted; empty if the source is not a folder.

    It is also empty for a missing folder: the step that reads it reports that.
    """
    if isinstance(source, FolderPassages):
        return passages.passage_files(source.folder)
    if isinstance(source, FolderArticles | FolderReplay):
        return wikipedia.article_files(source.folder)
    return []


def of_model(settings: Model) -> list[Path]:
    """The files of a model, sorted; empty if the model is not from a folder of the user.

    It is also empty for a missing folder: the step that reads it reports that.
    """
    if not isinstance(settings, FolderModel):
        return []
    try:
        return sorted(path for path in settings.folder.iterdir() if path.is_file())
    except OSError:
        return []


def of_run(run: RunConfig) -> list[Path]:
    """The files that a run's settings name and that exist.

    They are the image of a pattern, a reward model (a file or folder), and the Python file of a
    custom metric or reward (without the files that it imports).
    """
    model = None if run.reward.made_here else run.reward.model
    named = [model, getattr(run.metric, "image", None)]
    modules = [run.reward.path, getattr(run.metric, "path", None)]
    paths = [Path(name) for name in named if name] + [_file_of(name) for name in modules if name]
    return [path for path in paths if path is not None and path.exists()]


def _file_of(dotted: str) -> Path | None:
    """The file of `package.module:function`; None if there is none (the later import reports that).

    The module itself is not imported, but its parent packages are.
    """
    try:
        spec = importlib.util.find_spec(dotted.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
