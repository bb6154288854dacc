"""A study that is killed again and again ends with the bytes of one that never was.

    make faults                       50 kills, half an hour
    make faults KILLS=5               what CI does

Each kill is a SIGKILL at a random moment: of Snakemake with all its jobs, of Snakemake alone (its
jobs live on as orphans), or of one of its processes. The same command follows, until it ends.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[2]
PIECES = ("Snakefile", "workflow", "profiles", "config", "envs")
# Records hold times; what is compared is what the study computed.
RECORDS = {
    "run.json",
    "clock.jsonl",
    "corpus.json",
    "cpt.json",
    "sft.json",
    "provenance.html",
    "report.html",
    "runs.csv",
}

pytestmark = pytest.mark.faults


def folder_of(tmp_path, name):
    """A folder in which the workflow runs, with the downloads that are there already."""
    folder = tmp_path / name
    folder.mkdir()
    for piece in PIECES:
        (folder / piece).symlink_to(ROOT / piece)
    sources = ROOT / "results" / "sources"
    if sources.is_dir():
        (folder / "results").mkdir()
        subprocess.run(["cp", "-a", sources, folder / "results" / "sources"], check=True)
    return folder


def start(folder, log):
    """The one command: the smoke study under Snakemake, in a process group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "snakemake",
                "--cores",
                "2",
                "--configfile",
                "config/smoke.yaml",
            ],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def kill(process, choice):
    """Kill in one of three ways; returns the orphans that live on."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if choice == "all":
        os.killpg(process.pid, signal.SIGKILL)
        victims = below
    elif choice == "snakemake":
        process.kill()
        process.wait()
        return below
    else:
        victims = below[-1:] or [psutil.Process(process.pid)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    return []


def computed(results):
    """Path -> bytes of all that the study computed."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file()
        and path.name not in RECORDS
        and not {"logs", ".made", "perplexity"} & set(path.relative_to(results).parts)
    }


def test_kills_change_no_byte(tmp_path, request):
    kills = request.config.getoption("--kills")
    rng = random.Random(request.config.getoption("--fault-seed"))
    given = request.config.getoption("--undisturbed")
    if given is None:
        whole = folder_of(tmp_path, "whole")
        began = time.monotonic()
        assert start(whole, whole / "log").wait() == 0, (whole / "log").read_text()[-3000:]
        undisturbed, wanted = time.monotonic() - began, computed(whole / "results" / "smoke")
    else:
        undisturbed, wanted = 240.0, computed(Path(given))
    assert wanted, f"{given} holds no smoke study; run `make smoke` first"

    killed, done, ways = folder_of(tmp_path, "killed"), 0, {"all": 0, "snakemake": 0, "one": 0}
    began = time.monotonic()
    while True:
        process = start(killed, killed / "log")
        if done < kills:
            try:
                process.wait(rng.uniform(1.0, max(12.0, 1.6 * undisturbed / kills)))
            except subprocess.TimeoutExpired:
                choice = rng.choice(list(ways))
                orphans = kill(process, choice)
                done += 1
                ways[choice] += 1
                psutil.wait_procs(orphans, timeout=rng.uniform(0.0, 20.0))
                for orphan in orphans:  # a user would end them, told of them by the next call
                    if orphan.is_running():
                        orphan.kill()
                psutil.wait_procs(orphans)
        if process.wait() == 0:
            break
        assert time.monotonic() - began < 3600, (killed / "log").read_text()[-3000:]
    print(
        f"{done} kills ({', '.join(f'{n} of {way}' for way, n in ways.items())}): "
        f"{time.monotonic() - began:.0f} s, about {undisturbed:.0f} s undisturbed"
    )
    found = computed(killed / "results" / "smoke")
    assert set(wanted) == set(found)
    assert [name for name in wanted if wanted[name] != found[name]] == []
