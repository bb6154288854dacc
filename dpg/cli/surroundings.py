"""What the shell and the machine give a command: locale, home, temporary and working folder.

A container's user may have no home, a cluster's home may be read-only, a shell may use ASCII only.
The command then works nevertheless, or stops here with a clear error before it computes anything.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dpg import hardware
from dpg.errors import DpgError


def prepare() -> None:
    """Make this process independent of what its surroundings lack.

    Raises:
        DpgError: the working folder is gone, nothing can be written for temporary files, or file
            names cannot be UTF-8.
    """
    _speak_utf_8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook may have replaced it
            stream.reconfigure(errors="backslashreplace")
    working, temporary = _working_folder(), _temporary_folder()
    if os.environ.get("TMPDIR") not in (None, temporary):
        os.environ["TMPDIR"] = temporary  # child processes use the same folder
    os.environ.update(caches(os.environ, working, Path(temporary)))


def caches(environment: Mapping[str, str], working: Path, temporary: Path) -> dict[str, str]:
    """Return the variables that move the caches of libraries away from a home without them.

    Args:
        environment: the variables that are set.
        working: the working folder; its `.cache` is used if it can be written.
        temporary: the folder used otherwise.

    Returns:
        Variables to set; none where the libraries' own places can be written.
    """
    usual = Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    settings = Path(environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    hub = Path(environment.get("HF_HOME") or usual / "huggingface")
    own = working / ".cache"
    if not is_writable(own):
        own = temporary / f"dpg-{os.getuid()}"
    moved: dict[str, str] = {}
    if not is_writable(usual):
        moved["XDG_CACHE_HOME"] = str(own)
        if hardware.hub_token_file().is_file():
            moved["HF_TOKEN_PATH"] = str(hardware.hub_token_file())
    if not is_writable(settings) or not is_writable(usual):
        moved["MPLCONFIGDIR"] = str(own / "matplotlib")
    if not is_writable(hub):
        moved["HF_DATASETS_CACHE"] = str(own / "huggingface" / "datasets")
    kept = {name for name in ("MPLCONFIGDIR", "HF_DATASETS_CACHE") if environment.get(name)}
    return {name: value for name, value in moved.items() if name not in kept}


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    if not folder.is_absolute():  # "~" is kept where the user has no home
        return False
    while True:
        with contextlib.suppress(OSError):
            if folder.exists():
                return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        folder = folder.parent


def _speak_utf_8() -> None:
    """Start this command again in Python's UTF-8 mode if the locale encodes file names otherwise.

    Python does this by itself for the locale C, but not for ISO-8859-1, for instance. There, a path
    in a scale file with letters beyond ASCII would not be found.
    """
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    if os.environ.get("PYTHONUTF8") == "1":
        raise DpgError(
            f"file names are in {sys.getfilesystemencoding()} here, expected UTF-8: start Python "
            "without -X utf8=0, -E and -I, or set LC_ALL=C.UTF-8"
        )
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:
        raise DpgError(
            "the working folder is gone or cannot be read; expected one that exists: change to it "
            "with cd, and run the command again"
        ) from None


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        raise DpgError(
            "no folder for temporary files can be written to; expected TMPDIR to name one: "
            "set it, and run the command again"
        ) from None
