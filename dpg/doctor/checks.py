"""Checks of what a study needs from a machine, each with a remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from dpg.config import RunConfig, Study
from dpg.doctor import forecast, probe
from dpg.doctor.probe import Machine, SlurmNode
from dpg.environments import FOLDER, left_out_of, leftovers, locked_versions, path_of
from dpg.errors import DpgError
from dpg.evaluation.judge import KEY_VARIABLE
from dpg.generators.trl import settings as trl
from dpg.generators.verl import overrides as verl
from dpg.study.layout import Layout

OK: Final = "ok"
NOTE: Final = "note"
MISSING: Final = "missing"

Profile = Literal["default", "slurm", "kubernetes"]
PROFILES: dict[str, Profile] = {
    "default": "default",
    "slurm": "slurm",
    "kubernetes": "kubernetes",
}

PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
RAY_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard"}
GPU_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
PLUGINS = {
    "slurm": "snakemake-executor-plugin-slurm",
    "kubernetes": "snakemake-executor-plugin-cluster-generic",
}
KUBERNETES_VARIABLES = {
    "DPG_KUBERNETES_IMAGE": "a container image with a Python like that of .venv",
    "DPG_KUBERNETES_CLAIM": "the persistent volume claim that holds this folder",
}
"""Environment variables that profiles/kubernetes/submit.py needs -> their meaning."""

_FEW = 4


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: what was checked, such as "GPUs".
        state: "ok", "note" (worth knowing, but the study can start) or "missing" (it cannot).
        found: what was found.
        remedy: what to do about it; empty if there is nothing to do.
    """

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    remedy: str = ""


def examine(
    study: Study,
    layout: Layout,
    machine: Machine,
    *,
    profile: Profile = "default",
    locks: Path = Path("envs"),
    environments: Path = FOLDER,
) -> list[Finding]:
    """Check everything that a study needs.

    Args:
        study: the study to be run.
        layout: where its results go.
        machine: the machine to check.
        profile: where the jobs run: "default" (on this machine), "slurm" or "kubernetes". With the
            last two, GPUs and memory are those of the cluster's nodes, not of this machine.
        locks: folder of the locked requirements.
        environments: folder of the other engines' environments.

    Returns:
        One finding per check, in the order in which a user would fix them.
    """
    findings = [*_python(machine, locks)]
    if profile == "slurm":
        findings += _slurm(study, machine)
    elif profile == "kubernetes":
        findings += _kubernetes(machine)
    else:
        findings += [*_gpus(study, machine), _memory(study, machine)]
    findings.append(_disk(study, layout, machine))
    findings += _engine(study)
    findings += _environments(study, machine, locks, environments)
    findings += _hub(study, layout, machine)
    findings += _judge(study, layout, machine)
    findings += _ports(study, machine)
    return findings


def _python(machine: Machine, locks: Path) -> Iterator[Finding]:
    version = sys.version_info[:2]
    right = PYTHON_FROM <= version < PYTHON_BELOW
    words = ".".join(map(str, sys.version_info[:3]))
    remedy = "" if right else "with Python 3.11 to 3.13: make clean .venv PYTHON=python3.12"
    yield Finding("Python", OK if right else MISSING, words, remedy)
    lock = locks / "core.txt"
    if lock.is_file():
        yield _compared("packages", locked_versions(lock), machine.version, "make .venv")


def _compared(
    name: str, locked: dict[str, str], version: Callable[[str], str | None], remedy: str
) -> Finding:
    """Compare the packages of an environment with its lock.

    Args:
        name: of the finding.
        locked: package -> version in the lock.
        version: function from a package to its installed version, or None.
        remedy: what to do if they differ.
    """
    absent = [package for package in locked if version(package) is None]
    other = [
        f"{package} {version(package)}, expected {wanted}"
        for package, wanted in locked.items()
        # A local label, such as +cpu, says which build it is.
        if package not in absent and str(version(package)).split("+")[0] != wanted
    ]
    if absent:
        found = f"{len(absent)} of {len(locked)} locked packages are not there: {_few(absent)}"
        return Finding(name, MISSING, found, remedy)
    if other:
        found = f"{len(other)} of {len(locked)} are of another version: {_few(other)}"
        return Finding(name, NOTE, found, f"{remedy}, for the versions that were tested")
    return Finding(name, OK, f"all {len(locked)} as locked")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


# --- where the jobs run ------------------------------------------------------------------------


def _gpus(study: Study, machine: Machine) -> Iterator[Finding]:
    needed, found = study.scale.needs.gpus, machine.gpus()
    kinds = sorted({f"{gpu.name} of {gpu.memory_gb:.0f} GB" for gpu in found})
    words = f"{len(found)} x {', '.join(kinds)}" if found else "none"
    if len(found) < needed:
        remedy = (
            f"a job needs {needed}: run on a machine that has them, or send jobs to a cluster "
            "(--profile slurm or kubernetes), or choose a smaller scale"
        )
        yield Finding("GPUs", MISSING, words, remedy)
    else:
        yield Finding("GPUs", OK, words if found or needed else "none, and none needed")
    if found and needed:
        plugin = next((name for name in GPU_PLUGINS if machine.has_module(name)), None)
        remedy = "" if plugin else '.venv/bin/pip install -U "jax[cuda12]"'
        found_words = f"JAX has {plugin}" if plugin else "only JAX's CPU build is installed"
        yield Finding("JAX on GPUs", OK if plugin else MISSING, found_words, remedy)


def _memory(study: Study, machine: Machine) -> Finding:
    needed, found = study.scale.needs.memory_gb, machine.memory_gb()
    words = f"{found:.0f} GB, {needed:g} GB needed per job; {machine.cpus()} cores"
    if found < needed:
        return Finding("memory", MISSING, words, "a larger machine, or a smaller scale")
    return Finding("memory", OK, words)


def _slurm(study: Study, machine: Machine) -> Iterator[Finding]:
    yield _plugin("slurm", machine)
    if not machine.has_command("sbatch"):
        yield Finding(
            "Slurm", MISSING, "no sbatch here", "run on a machine from which jobs are submitted"
        )
        return
    nodes = machine.slurm_nodes()
    if nodes is None:
        remedy = "ask `scontrol ping` why; is slurm.conf that of the cluster, and munge running?"
        yield Finding("Slurm", MISSING, "sbatch is installed, but no controller answers", remedy)
        return
    yield _fitting(study, nodes)
    if not machine.has_slurm_accounting():
        yield Finding(
            "Slurm accounting",
            NOTE,
            "none: sacct gives no answer",
            "add --slurm-status-command squeue to the command line",
        )


def _fitting(study: Study, nodes: list[SlurmNode]) -> Finding:
    needs = study.scale.needs
    fit = [n for n in nodes if n.gpus >= needs.gpus and n.memory_gb >= needs.memory_gb]
    partitions = sorted({node.partition for node in fit})
    names = {node.name for node in fit}
    if len(names) >= needs.nodes:
        where = f"{len(names)} fitting nodes in {', '.join(partitions)}"
        return Finding("Slurm", OK, where)
    most = max(nodes, key=lambda n: (n.gpus, n.memory_gb), default=None)
    best = f"the largest has {most.gpus} GPUs, {most.memory_gb:.0f} GB" if most else "no node"
    wanted = f"a job needs {needs.gpus} GPUs and {needs.memory_gb:g} GB"
    if needs.nodes > 1:
        wanted += f" on each of {needs.nodes} nodes, and {len(names)} fit"
    remedy = "a partition with such nodes, or a smaller scale"
    return Finding("Slurm", MISSING, f"{wanted}; {best}", remedy)


def _kubernetes(machine: Machine) -> Iterator[Finding]:
    yield _plugin("kubernetes", machine)
    if machine.has_command("kubectl"):
        yield Finding(
            "Kubernetes", OK, "kubectl is installed; the cluster's nodes were not checked"
        )
    else:
        remedy = "install it; `kubectl get nodes` then shows whether it reaches the cluster"
        yield Finding(
            "Kubernetes", MISSING, "kubectl is not installed, and the profile calls it", remedy
        )
    unset = [name for name in KUBERNETES_VARIABLES if not machine.variable(name)]
    if unset:
        remedy = f"{'; '.join(f'{name}: {KUBERNETES_VARIABLES[name]}' for name in unset)}"
        yield Finding("pods", MISSING, f"{' and '.join(unset)} not set", remedy)
    else:
        yield Finding("pods", OK, f"{' and '.join(KUBERNETES_VARIABLES)} set")


def _plugin(profile: str, machine: Machine) -> Finding:
    package = PLUGINS[profile]
    version = machine.version(package)
    if version is None:
        remedy = f".venv/bin/pip install {package}"
        return Finding("executor", MISSING, f"{package} is not installed", remedy)
    return Finding("executor", OK, f"{package} {version}")


# --- what the jobs need ------------------------------------------------------------------------


def _disk(study: Study, layout: Layout, machine: Machine) -> Finding:
    wanted = forecast.estimate(study, layout)
    free = machine.free_disk_gb(layout.folder)
    needed = wanted.disk_gb + wanted.working_gb
    words = f"{free:,.0f} GB free at {layout.folder}, about {needed:,.0f} GB needed"
    if wanted.unknown:
        words += f" and the size of {', '.join(wanted.unknown)}"
    if free < needed:
        return Finding(
            "disk", MISSING, words, "free space, or make results/ a link to a larger one"
        )
    return Finding("disk", OK, words)


def _engine(study: Study) -> Iterator[Finding]:
    """Whether the engine accepts the settings of every run."""
    if study.scale.engine not in _REFUSED_BY:
        return
    refused: dict[str, list[str]] = {}
    for run in study.runs:
        try:
            _REFUSED_BY[study.scale.engine](study, run)
        except DpgError as error:
            refused.setdefault(str(error), []).append(run.path)
    name = f"engine {study.scale.engine}"
    if not refused:
        yield Finding(name, OK, f"can be given the settings of all {len(study.runs)} runs")
    for message, paths in refused.items():
        found = f"{len(paths)} of {len(study.runs)} runs ({_few(paths)}): {message}"
        yield Finding(name, MISSING, found, "change the setting, or take another engine")


def _by_trl(study: Study, run: RunConfig) -> None:
    needs = study.scale.needs
    trl.shape_of(run, trl.processes_of(needs), needs.nodes)


def _by_verl(study: Study, run: RunConfig) -> None:
    needs, nowhere = study.scale.needs, Path()
    paths = verl.Paths(nowhere, nowhere, nowhere, nowhere)
    verl.settings(run, paths, gpus=needs.gpus, nodes=needs.nodes)


_REFUSED_BY: dict[str, Callable[[Study, RunConfig], None]] = {"trl": _by_trl, "verl": _by_verl}
"""Engine -> a function that raises a `DpgError` if the engine does not accept a run's settings."""


def _environments(
    study: Study, machine: Machine, locks: Path, environments: Path
) -> Iterator[Finding]:
    for name in forecast.environments(study):
        if name == "core":
            continue  # the environment of this process
        lock = locks / f"{name}.txt"
        title = f"environment {name}"
        if not lock.is_file():
            yield Finding(
                title, MISSING, f"{lock} is not there", f"a checkout that has envs/{name}.txt"
            )
            continue
        place = path_of(name, locks, environments)
        for old in leftovers(name, locks, environments):
            yield Finding(title, NOTE, f"{old} is of another lock and not used", f"delete {old}")
        there = machine.versions_in(place)
        if there is None:
            size = forecast.ENVIRONMENT_GB[name]
            found = f"not made yet; its rule makes it when it is first needed ({size:g} GB)"
            yield Finding(title, NOTE, found)
        else:
            remedy = f"remove {place}: its rule makes it again"
            left_out = left_out_of(place)
            locked = {k: v for k, v in locked_versions(lock).items() if k not in left_out}
            yield _compared(title, locked, there.get, remedy)
            if left_out:
                found = f"made without {', '.join(left_out)}"
                yield Finding(title, NOTE, found, f"{remedy} with all of {lock}")


def _repositories(study: Study, layout: Layout) -> dict[tuple[str, probe.Kind], bool]:
    """(repository, kind) on the hub that are still to be fetched -> whether they are gated."""
    scale = study.scale
    wanted: dict[tuple[str, probe.Kind], bool] = {}
    for name, model in scale.models.items():
        if model.source == "hub" and not layout.model(name).exists():
            gated = wanted.get((model.repository, "model"), False)
            wanted[model.repository, "model"] = gated or model.gated
    if scale.text.articles.source == "hub" and not layout.articles.exists():
        wanted[scale.text.articles.dataset, "dataset"] = False
    if scale.text.passages.source == "hub" and not layout.passages.exists():
        wanted[scale.text.passages.dataset, "dataset"] = False
    if study.downstream is not None and study.downstream.replay.source == "hub":
        wanted[study.downstream.replay.dataset, "dataset"] = False
    for run in study.runs:
        if run.reward.model is not None and not run.reward.made_here:
            wanted[run.reward.model, "model"] = False
    return wanted


def _hub(study: Study, layout: Layout, machine: Machine) -> Iterator[Finding]:
    wanted = _repositories(study, layout)
    gated = [repository for (repository, _), is_gated in wanted.items() if is_gated]
    if gated and not machine.has_hub_token():
        yield Finding(
            "hub token",
            MISSING,
            f"none, and {_few(gated)} are gated",
            "set HF_TOKEN, or run `hf auth login`",
        )
    elif gated:
        yield Finding("hub token", OK, "there is one")
    for (repository, kind), is_gated in wanted.items():
        if is_gated and not machine.has_hub_token():
            continue  # reported above
        access = machine.access(repository, kind)
        yield _of_access(repository, kind, access)
        if access.state == probe.UNREACHABLE:
            return  # the others cannot be reached either


def _of_access(repository: str, kind: probe.Kind, access: probe.Access) -> Finding:
    name = f"hub: {repository}"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if access.state == probe.REACHED:
        return Finding(name, OK, "may be fetched")
    if access.state == probe.REFUSED:
        return Finding(name, MISSING, access.message, f"ask for access at {page}, check HF_TOKEN")
    if access.state == probe.ABSENT:
        return Finding(name, MISSING, access.message, "correct its name in the scale file")
    if access.state == probe.UNREACHABLE:
        remedy = "check the network and HF_ENDPOINT; this says nothing about the token or access"
        return Finding("hub", MISSING, f"cannot be reached: {access.message}", remedy)
    return Finding(name, NOTE, f"not known: {access.message}")


def _judge(study: Study, layout: Layout, machine: Machine) -> Iterator[Finding]:
    wanted, judge = forecast.estimate(study, layout), study.scale.judge
    if judge.kind == "offline" or not wanted.judged:
        return
    if not machine.variable(KEY_VARIABLE):
        remedy = f"set {KEY_VARIABLE}, or judge: {{kind: offline}} in a copy of the scale file"
        yield Finding("judge", MISSING, f"no key for {judge.model}", remedy)
    elif wanted.judge_dollars is not None and wanted.judge_dollars > judge.max_cost:
        found = f"about ${wanted.judge_dollars:.2f}, above judge.max_cost ${judge.max_cost:g}"
        yield Finding("judge", NOTE, found, "raise judge.max_cost, or it stops there")
    else:
        yield Finding("judge", OK, f"a key for {judge.model} is set")


def _ports(study: Study, machine: Machine) -> Iterator[Finding]:
    if study.scale.engine != "verl":
        return
    taken = [port for port in RAY_PORTS if not machine.port_is_free(port)]
    if taken:
        words = ", ".join(f"{port} ({RAY_PORTS[port]})" for port in taken)
        remedy = "another Ray may run here: `ray stop` ends it; or start Ray with another --port"
        yield Finding("ports", NOTE, f"in use on the loopback interface: {words}", remedy)
    else:
        words = ", ".join(f"{port} ({use})" for port, use in RAY_PORTS.items())
        yield Finding("ports", OK, f"free: {words}")
