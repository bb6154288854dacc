"""What this machine has: GPUs, memory, cores, a token of the hub. Nothing is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def gpu_count() -> int:
    """The number of NVIDIA GPUs that the driver lists; 0 without a driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60)
    return sum(line.startswith(b"GPU ") for line in listed.stdout.splitlines())


def physical_memory_gb() -> float:
    """The machine's memory in GB (10^9 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_hub_token() -> bool:
    """Whether a Hugging Face token is set or saved, where the hub's client looks for it."""
    if os.environ.get("HF_TOKEN"):
        return True
    return hub_token_file().is_file()


def hub_token_file() -> Path:
    """The file in which the hub's client saves a token; it may not exist."""
    # Not `Path.home`, which raises if a container's user has no home.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.environ.get("HF_TOKEN_PATH") or f"{os.path.expanduser(home)}/token")
