"""Download wheels from PyPI and Debian packages; nothing is installed or imported.

Both use the machine's own tools (pip, apt), so they work with the mirror or index of the user's
settings. A file that exists already, or that the user put into the folder `provided`, is used
instead of a download.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpg.digests import of_file
from dpg.errors import DpgError

PROVIDED = Path("downloads")
"""Folder, relative to the working folder, where the user may put files instead of a download."""


def fetch_wheel(
    requirement: str, filename: str, sha256: str, out_dir: Path, *, provided: Path = PROVIDED
) -> Path:
    """Download one wheel as `out_dir/filename`, whole or not at all.

    Args:
        requirement: `name==version`.
        filename: name of the wheel's file.
        sha256: expected checksum, 64 hexadecimal digits.
        out_dir: folder of the wheel.
        provided: folder where the user may have put the file.

    Raises:
        DpgError: the requirement has no version, pip cannot download it (names the file and where
            to put it by hand), the index has another file, or the checksum differs.
    """
    if not re.fullmatch(r"[\w.-]+==[\w.!+-]+", requirement):
        raise DpgError(f"requirement {requirement!r}: write name==version, exactly")
    target = Path(out_dir) / filename
    by_hand = Path(provided) / filename
    for present in (target, by_hand):
        if present.exists():
            _check(present, sha256, f"delete {present} to have it fetched again")
            return _place(present, target)
    help_by_hand = f"put the file {filename} into the folder {by_hand.parent.absolute()} by hand"
    with _workspace(target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--only-binary", ":all:"]
        done = _run([*command, "--dest", str(folder), requirement])
        if done.returncode != 0:
            raise DpgError(
                f"pip could not download {requirement}: {_last_lines(done)}\n"
                f"Check the network and pip's index, or {help_by_hand}."
            )
        fetched = folder / filename
        if not fetched.exists():
            found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
            raise DpgError(
                f"{requirement}: pip downloaded {found}, expected {filename}: {help_by_hand}"
            )
        _check(
            fetched,
            sha256,
            f"the index serves another file than the one this project was written for: "
            f"{help_by_hand}, or, if you trust the new file, set the checksum to its own",
        )
        return _place(fetched, target)


def fetch_debian_packages(
    names_pattern: str | Sequence[str], out_dir: Path, *, provided: Path = PROVIDED
) -> list[Path]:
    """Download Debian packages (`.deb`) without installing them.

    apt checks each file against the archive's signed lists. The machine's own package lists are
    often empty or old, in containers for instance. Then fresh lists are fetched into a private
    folder; the machine's own lists do not change, and root is not needed.

    Args:
        names_pattern: one or several regular expressions for whole package names, since names
            contain a version (`wesnoth-[0-9.]+-utbs`). If several names match, the one with the
            highest numbers is taken.
        out_dir: folder of the packages.
        provided: folder where the user may have put them.

    Returns:
        One file per pattern, in the patterns' order.

    Raises:
        DpgError: there is no apt (names other sources of passages), no package matches a pattern,
            or a download fails.
    """
    patterns = [names_pattern] if isinstance(names_pattern, str) else list(names_pattern)
    out_dir, provided = Path(out_dir), Path(provided)
    found: dict[str, Path] = {}
    for pattern in patterns:
        for folder in (out_dir, provided):
            names = {_package(file): file for file in sorted(folder.glob("*.deb"))}
            for name in _newest(name for name in names if re.fullmatch(pattern, name)):
                found.setdefault(pattern, _place(names[name], out_dir / names[name].name))
    missing = [pattern for pattern in patterns if pattern not in found]
    if missing:
        _need_apt(missing, provided)
        with _workspace(out_dir) as folder:
            for pattern, file in _download(missing, folder, provided).items():
                found[pattern] = _place(file, out_dir / file.name)
    return [found[pattern] for pattern in patterns]


# Under root, apt would download as its own user, who may not write into our folder.
_APT_OPTIONS = ("-o", "APT::Sandbox::User=root")


def _need_apt(patterns: list[str], provided: Path) -> None:
    if shutil.which("apt-get") and shutil.which("apt-cache"):
        return
    raise DpgError(
        f"there is no apt on this machine ({platform.system()}), so Debian's packages "
        f"{', '.join(patterns)} cannot be fetched. Other sources of passages: the hub "
        f"(EleutherAI/lambada_openai); a folder of your own files, one {{language}}.jsonl per "
        f"language; or those .deb files, fetched elsewhere and put into the folder "
        f"{provided.absolute()}."
    )


def _download(patterns: list[str], folder: Path, provided: Path) -> dict[str, Path]:
    """Pattern -> downloaded file, with the machine's package lists, or else with fresh lists."""
    by_hand = f"or put the .deb files into the folder {provided.absolute()} by hand."
    problem = ""
    for fresh in (False, True):
        options, said = _fresh_lists(folder) if fresh else (list(_APT_OPTIONS), "")
        names = {pattern: _search(pattern, options) for pattern in patterns}
        lacking = [pattern for pattern, name in names.items() if not name]
        if lacking:
            problem = (
                f"apt knows no package {', '.join(lacking)}, even with fresh package lists: {said}"
                f"\nCheck the network and that games are among apt's sources (Debian's `main`, "
                f"Ubuntu's `universe`), then run `apt-get update`; {by_hand}"
            )
            continue
        wanted = [name for name in names.values() if name]
        done = _run(["apt-get", *options, "-q", "download", *wanted], cwd=folder)
        files = {_package(file): file for file in folder.glob("*.deb")}
        absent = [name for name in wanted if name not in files]
        if done.returncode == 0 and not absent:
            return {pattern: files[name] for pattern, name in names.items() if name}
        problem = (
            f"apt could not download {', '.join(absent or wanted)}: {_last_lines(done)}\n"
            f"Check the network and apt's sources, {by_hand}"
        )
    raise DpgError(problem)


def _fresh_lists(folder: Path) -> tuple[list[str], str]:
    """Fetch private package lists; return apt's options to use them, and apt's last messages."""
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / "apt" / place).mkdir(parents=True)
    options = [*_APT_OPTIONS, "-o", f"Dir::State::Lists={folder}/apt/lists"]
    options += ["-o", f"Dir::Cache={folder}/apt/cache"]
    # The exit code is ignored: it may come from a failed hook in the machine's apt settings.
    return options, _last_lines(_run(["apt-get", *options, "-q", "update"]))


def _search(pattern: str, options: list[str]) -> str | None:
    """The newest package name that matches, or None."""
    done = _run(["apt-cache", *options, "search", "--names-only", f"^({pattern})$"])
    names = (line.split(" - ")[0].strip() for line in done.stdout.splitlines())
    return next(_newest(name for name in names if re.fullmatch(pattern, name)), None)


def _package(deb: Path) -> str:
    """The package's name: what comes before "_" in `wesnoth-1.16-nr_1.16.9-1_all.deb`."""
    return deb.name.split("_")[0]


def _newest(names: Iterator[str]) -> Iterator[str]:
    """The name with the highest numbers, or nothing; the names differ only in their numbers."""
    ranked = sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    yield from ranked[-1:]


def _run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace"
    )


def _last_lines(done: subprocess.CompletedProcess[str], count: int = 3) -> str:
    """The last lines of a command's output: error lines if it has any."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return " / ".join((errors or lines)[-count:]) or "it said nothing"


def _check(path: Path, expected: str, way_out: str) -> None:
    actual = of_file(path)
    if actual != expected.lower():
        raise DpgError(
            f"{path.name} has the SHA-256 {actual}, but {expected.lower()} is expected: {way_out}"
        )


def _place(source: Path, target: Path) -> Path:
    """Copy `source` to `target`, whole or not at all, unless they are the same file."""
    if source.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(source, "rb") as file,
            tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as part,
        ):
            shutil.copyfileobj(file, part)
        os.chmod(part.name, 0o644)
        os.replace(part.name, target)
    return target


@contextlib.contextmanager
def _workspace(parent: Path) -> Iterator[Path]:
    """A temporary folder beside the target; it is removed afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".fetch-") as name:
        yield Path(name).resolve()
