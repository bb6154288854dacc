"""Write the locks of other engines' environments: every version, and the hash of every file.

``make lock ENV=trl`` calls ``python -m dpg.locks trl --uv PATH``. `envs/wanted.toml` says which
packages an environment needs. uv (https://docs.astral.sh/uv) finds the versions that fit together,
and the hashes in the package index. Versions of the existing lock are kept as long as they fit.

A lock lists the files for its own Pythons and platforms only, so that it stays readable.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from dpg import artifacts
from dpg.environments import LOCKS, NO_DEPS, NO_HASH, LockError, plain_name, read_lock

WANTED = LOCKS / "wanted.toml"
"""The file that says what each environment needs."""

PLATFORMS = {
    "linux-x86_64": re.compile(r"any|(many)?linux.*_x86_64"),
    "linux-aarch64": re.compile(r"any|(many)?linux.*_aarch64"),
    "macos-arm64": re.compile(r"any|macosx_.*_(arm64|universal2)"),
}
"""Platform -> the platform tags of the wheels that it installs."""

# Wheels for glibc 2.34 and later: Red Hat 9, Ubuntu 22.04, Debian 12.
_UV_PLATFORMS = {"linux-x86_64": "x86_64-manylinux_2_34", "linux-aarch64": "aarch64-manylinux_2_34"}
_CUDA = re.compile(r"(nvidia|cuda|triton)\b")  # packages that only PyTorch's GPU builds need


class Wanted(NamedTuple):
    """What an environment needs: a table of `envs/wanted.toml`, which explains the keys."""

    packages: list[str]
    pythons: list[str]
    platforms: list[str]
    no_deps: list[str]
    no_hash: list[str]
    excluded: list[str]
    overrides: list[str]
    built: list[str]
    gpu: bool

    @classmethod
    def of(cls, name: str, path: Path = WANTED) -> Wanted:
        """What the environment of this name needs.

        Raises:
            LockError: the file has no such environment.
        """
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        if name not in tables:
            raise LockError(f"{path}: no [{name}]; there are: {', '.join(sorted(tables))}")
        table = {key.replace("-", "_"): value for key, value in tables[name].items()}
        optional = ("no_deps", "no_hash", "excluded", "overrides", "built")
        empty: dict[str, list[str]] = {key: [] for key in optional}
        return cls(**empty | table, gpu=name.endswith("-gpu"))


def lock(name: str, uv: str, *, upgrade: bool = False, folder: Path = LOCKS) -> Path:
    """Write the lock of an environment again; the comment at its head is kept.

    Args:
        name: a table of `envs/wanted.toml`.
        uv: the path of uv's program.
        upgrade: take the newest versions that fit, instead of the locked ones.
        folder: of the locks and `wanted.toml`.

    Returns:
        The lock's path.

    Raises:
        LockError: no such environment, or uv finds no versions that fit together.
    """
    wanted, path = Wanted.of(name, folder / WANTED.name), folder / f"{name}.txt"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = {} if upgrade or not before else read_lock(path)
    versions = resolved(wanted, [pin.requirement for pin in kept.values() if not pin.alone], uv)
    files = hashes(wanted, versions, uv)
    artifacts.write_text(path, head_of(before) + body(wanted, versions, files))
    return path


def head_of(text: str) -> str:
    """The comment lines at the head of a lock."""
    lines = text.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:end])


def resolved(wanted: Wanted, kept: Sequence[str], uv: str) -> dict[str, str]:
    """Package -> version, for all packages of an environment.

    Args:
        wanted: what the environment needs.
        kept: ``name==version`` of a lock; these versions are preferred if they fit.
        uv: the path of uv's program.

    Raises:
        LockError: no versions fit together.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.txt"
        out.write_text("\n".join(kept), encoding="utf-8")
        platform = _UV_PLATFORMS[wanted.platforms[0]]
        options = ["-o", str(out), "--python-platform", platform, "--only-binary", ":all:"]
        options += [word for name in wanted.built for word in ("--no-binary", name)]
        for key in ("excluded", "overrides"):
            listed = Path(place) / f"{key}.txt"
            listed.write_text("\n".join(getattr(wanted, key)), encoding="utf-8")
            options += ["--excludes" if key == "excluded" else "--overrides", str(listed)]
        _compile(uv, wanted, wanted.packages, options)
        found = {name: pin.version for name, pin in read_lock(out).items()}
    alone = dict(one.split("==") for one in wanted.no_deps if "==" in one)
    found |= {plain_name(name): version for name, version in alone.items()}
    return {name: found[name] for name in sorted(found) if wanted.gpu or not _CUDA.match(name)}


def hashes(wanted: Wanted, versions: Mapping[str, str], uv: str) -> dict[str, list[str]]:
    """Package -> SHA-256 of its files for the lock's Pythons and platforms, sorted."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "pylock.toml"
        pins = [f"{name}=={version}" for name, version in versions.items()]
        options = ["--universal", "--no-deps", "--format", "pylock.toml", "-o", str(out)]
        _compile(uv, wanted, pins, options)
        listed = tomllib.loads(out.read_text(encoding="utf-8"))["packages"]
    return {plain_name(one["name"]): sorted(fitting(one, wanted)) for one in listed}


def fitting(package: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """The hashes of the package's files that the lock's Pythons and platforms install.

    They include the source distribution if a Python on a platform has no wheel.

    Args:
        package: a table of pylock.toml, with `wheels` and perhaps `sdist`.
        wanted: names the Pythons and platforms.
    """
    found, served = [], set()
    for wheel in package.get("wheels", []):
        tags = parse_wheel_filename(_name_of(wheel))[3]
        places = {
            (python, platform)
            for python in wanted.pythons
            for platform in wanted.platforms
            if any(_fits(tag, python, platform) for tag in tags)
        }
        if places:
            found.append(wheel["hashes"]["sha256"])
            served |= places
    if "sdist" in package and len(served) < len(wanted.pythons) * len(wanted.platforms):
        found.append(package["sdist"]["hashes"]["sha256"])
    return found


def _name_of(wheel: Mapping[str, Any]) -> str:
    return wheel.get("name") or unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])


def _fits(tag: Tag, python: str, platform: str) -> bool:
    """Whether CPython of this version installs a wheel of this tag on this platform."""
    minor = int(python.partition(".")[2])
    since = re.fullmatch(r"(?:py|cp)3(\d*)", tag.interpreter)
    if since is None or not PLATFORMS[platform].fullmatch(tag.platform):
        return False
    return tag.abi == f"cp3{minor}" or (tag.abi in ("none", "abi3") and int(since[1] or 0) <= minor)


def body(wanted: Wanted, versions: Mapping[str, str], files: Mapping[str, Iterable[str]]) -> str:
    """The lines of a lock: each package with its hashes, or with the comment why it has none."""
    alone = {plain_name(one.split("==")[0]) for one in wanted.no_deps}
    unchecked = {plain_name(name) for name in wanted.no_hash}
    lines = []
    for name, version in versions.items():
        notes = [NO_DEPS] * (name in alone) + [NO_HASH] * (name in unchecked)
        listed = [] if name in unchecked else [f"--hash=sha256:{one}" for one in files[name]]
        parts = [f"{name}=={version}", *listed]
        lines.append(" \\\n    ".join(parts) + (f"  # {', '.join(notes)}" if notes else ""))
    return "\n".join(lines) + "\n"


def _compile(uv: str, wanted: Wanted, packages: Sequence[str], options: Sequence[str]) -> None:
    """`uv pip compile` of these packages for the oldest Python of the lock."""
    command = [
        *(uv, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"),
        *("--python-version", wanted.pythons[0], *options),
    ]
    done = subprocess.run(
        command, input="\n".join(packages), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LockError(f"uv finds no versions that fit together:\n{done.stderr.strip()}")


def main() -> None:
    """The command; `--help` explains it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="an environment of envs/wanted.toml")
    parser.add_argument("--uv", default="uv", help="uv's program")
    parser.add_argument("--upgrade", action="store_true", help="the newest versions that fit")
    arguments = parser.parse_args()
    path = lock(arguments.name, arguments.uv, upgrade=arguments.upgrade)
    print(f"{path}: {len(read_lock(path))} packages locked")


if __name__ == "__main__":
    main()
