"""Inspect this machine: GPUs, memory, disk, the hub, packages, ports, Slurm; changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from dpg import hardware
from dpg.environments import plain_name

Kind = Literal["model", "dataset"]
"""The kind of a repository on the hub."""

REACHED: Final = "reached"
REFUSED: Final = "refused"
ABSENT: Final = "absent"
UNREACHABLE: Final = "unreachable"
UNKNOWN: Final = "unknown"

_TIMEOUT = 60.0  # seconds; a driver or a controller that hangs counts as missing


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver names it; memory in GB (10^9 bytes)."""

    name: str
    memory_gb: float


@dataclass(frozen=True)
class Access:
    """The hub's answer about a repository.

    Attributes:
        state: "reached" (may be fetched), "refused" (gated or private, and this token has no
            access), "absent" (no such repository), "unreachable" (no answer) or "unknown" (not
            asked, or the answer is unclear).
        message: the reason, in words.
    """

    state: Literal["reached", "refused", "absent", "unreachable", "unknown"]
    message: str = ""


@dataclass(frozen=True)
class SlurmNode:
    """A node that Slurm may give to a job; memory in GB (10^9 bytes)."""

    name: str
    partition: str
    memory_gb: float
    gpus: int


class Machine:
    """This machine. Tests, and reports about other machines, replace some of the methods."""

    def gpus(self) -> list[Gpu]:
        """The NVIDIA GPUs that the driver lists; none if there is no driver."""
        query = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
        output = _output(*query)
        fields = [line.rsplit(",", 1) for line in (output or "").splitlines() if "," in line]
        # The driver counts in MiB.
        return [Gpu(name.strip(), float(mib) * 2**20 / 1e9) for name, mib in fields]

    def memory_gb(self) -> float:
        """The memory of this machine, in GB."""
        return hardware.physical_memory_gb()

    def cpus(self) -> int:
        """The number of cores that this process may use."""
        return hardware.usable_cores()

    def free_disk_gb(self, folder: Path) -> float:
        """The free space on the disk of a folder, which need not exist, in GB."""
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free / 1e9

    def has_hub_token(self) -> bool:
        """Whether a Hugging Face token is set or saved."""
        return hardware.has_hub_token()

    def variable(self, name: str) -> bool:
        """Whether an environment variable has a value; the value itself is not used."""
        return bool(os.environ.get(name))

    def access(self, repository: str, kind: Kind) -> Access:
        """Ask the hub whether a repository may be fetched with the present token."""
        try:
            from huggingface_hub import HfApi
        except ImportError:
            return Access(UNKNOWN, "huggingface-hub is not installed")
        try:
            HfApi().auth_check(repository, repo_type=kind)
        # The client raises many unrelated types; `_refusal` tells an answer from silence.
        except Exception as error:
            return _refusal(error)
        return Access(REACHED)

    def version(self, package: str) -> str | None:
        """The version of a package in this environment, or None."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def versions_in(self, environment: Path) -> dict[str, str] | None:
        """Package, in lower case -> version in another environment; None if it does not exist."""
        folders = sorted(environment.glob("lib/python3*/site-packages"))
        if not folders or not (environment / "bin" / "python").exists():
            return None
        found = importlib.metadata.distributions(path=[str(folder) for folder in folders])
        return {plain_name(one.metadata["Name"]): one.version for one in found}

    def has_module(self, name: str) -> bool:
        """Whether a module can be imported here."""
        return importlib.util.find_spec(name) is not None

    def has_command(self, name: str) -> bool:
        """Whether a command is on the path."""
        return shutil.which(name) is not None

    def port_is_free(self, port: int) -> bool:
        """Whether a server could listen on a port of the loopback interface."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True

    def slurm_nodes(self) -> list[SlurmNode] | None:
        """The nodes that Slurm's controller lists; None if no controller answers."""
        output = _output("sinfo", "--noheader", "--Node", "--format=%N|%P|%m|%G")
        return None if output is None else parse_nodes(output)

    def has_slurm_accounting(self) -> bool:
        """Whether Slurm keeps a database of finished jobs, which `sacct` reads."""
        return _output("sacct", "--noheader", "--starttime=now") is not None


def parse_nodes(text: str) -> list[SlurmNode]:
    """Read `sinfo --Node --format=%N|%P|%m|%G`: one line per node and partition."""
    nodes = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, partition, mib, generic = (field.strip() for field in line.split("|"))
        gpus = sum(_gpus(one) for one in generic.split(","))
        memory = float(mib.rstrip("+")) * 2**20 / 1e9
        nodes.append(SlurmNode(name, partition.rstrip("*"), memory, gpus))
    return nodes


def _gpus(generic: str) -> int:
    """The number in `gpu:8`, `gpu:h100:8` or `gpu:h100:8(S:0-1)`; 0 for other resources."""
    parts = generic.split("(", 1)[0].split(":")
    return int(parts[-1]) if parts[0] == "gpu" and parts[-1].isdigit() else 0


def _output(*command: str) -> str | None:
    """What a command prints; None if it is not installed, fails or does not end in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def _refusal(error: Exception) -> Access:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return Access(UNKNOWN, "HF_HUB_OFFLINE is set")
    if isinstance(error, errors.GatedRepoError):
        return Access(REFUSED, "gated, and this account has no access")
    if isinstance(error, errors.RepositoryNotFoundError):
        status = error.response.status_code
        if status in (401, 403):
            return Access(REFUSED, "not visible to this account, or the token is not valid")
        return Access(ABSENT, "the hub knows no such repository")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return Access(REFUSED, f"the hub refuses the token (HTTP {status})")
        return Access(UNKNOWN, f"the hub answers HTTP {status}")
    return Access(UNREACHABLE, str(error).strip().splitlines()[0] if str(error) else repr(error))
