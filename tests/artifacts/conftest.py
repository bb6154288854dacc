"""Fixtures for the tests of files: the names in a folder, and a process that is killed."""

import signal
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture(scope="session")
def names():
    """A function from a folder to the sorted names in it."""
    return lambda folder: sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="session")
def run_and_die():
    """Run code in a separate process that ends by SIGKILL, like a killed job."""

    def run(code, *arguments):
        program = "import os, signal, sys\n" + textwrap.dedent(code)
        process = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=False)
        assert process.returncode == -signal.SIGKILL

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a separate file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mounted, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
