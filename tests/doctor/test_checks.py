"""Each thing that a study needs is looked at, and what is missing is named with its remedy."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dpg import artifacts, config, doctor
from dpg.doctor import checks, probe
from dpg.environments import FOLDER, RECORD, path_of
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
EIGHT = [probe.Gpu("NVIDIA H200", 150.0)] * 8


class Complete(probe.Machine):
    """A machine that has all that the paper's scale needs; a test takes something away."""

    def __init__(self, **changes):
        self.changes = changes

    def __getattribute__(self, name):
        changes = object.__getattribute__(self, "changes")
        if name in changes:
            return lambda *_: changes[name]
        return object.__getattribute__(self, name)

    def gpus(self):
        return EIGHT

    def memory_gb(self):
        return 2000.0

    def free_disk_gb(self, folder):
        return 5000.0

    def has_hub_token(self):
        return True

    def variable(self, name):
        return True

    def access(self, repository, kind):
        return probe.Access(probe.REACHED)

    def version(self, package):
        return "1.0"

    def versions_in(self, environment):
        return {"verl": "0.5.0", "vllm": "0.8.5"}

    def has_module(self, name):
        return True

    def has_command(self, name):
        return True

    def port_is_free(self, port):
        return True

    def slurm_nodes(self):
        return [probe.SlurmNode("node1", "gpu", 2000.0, 8)]

    def has_slurm_accounting(self):
        return True


@pytest.fixture
def locks(tmp_path):
    folder = tmp_path / "envs"
    folder.mkdir()
    for name, package in (
        ("core", "jax==1.0"),
        ("verl-gpu", "verl==0.5.0"),
        ("vllm-gpu", "vllm==0.8.5"),
    ):
        (folder / f"{name}.txt").write_text(f"# a lock\n{package}\n")
    return folder


def examine(study, layout, locks, profile="default", **changes):
    found = doctor.examine(study, layout, Complete(**changes), profile=profile, locks=locks)
    return {one.name: one for one in found}


def missing(found):
    return [name for name, one in found.items() if one.state == "missing"]


def test_a_machine_with_everything_lacks_nothing(paper, layout, locks):
    found = examine(paper, layout, locks)
    assert {one.state for one in found.values()} == {"ok"}
    assert found["GPUs"].found == "8 x NVIDIA H200 of 150 GB"
    # The three models, the two data sets, the replay text and the baselines' two models.
    assert sum(name.startswith("hub: ") for name in found) == 8


@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        ({"gpus": EIGHT[:2]}, "GPUs", "a job needs 8"),
        ({"memory_gb": 64.0}, "memory", "a larger machine"),
        ({"free_disk_gb": 50.0}, "disk", "results/ a link"),
        ({"has_module": False}, "JAX on GPUs", 'pip install -U "jax[cuda12]"'),
        ({"has_hub_token": False}, "hub token", "HF_TOKEN"),
        ({"variable": False}, "judge", "OPENAI_API_KEY"),
        ({"version": None}, "packages", "make .venv"),
        ({"access": probe.Access(probe.UNREACHABLE, "timed out")}, "hub", "check the network"),
    ],
)
def test_each_thing_that_is_missing_is_named_with_its_remedy(
    paper, layout, locks, change, name, says
):
    found = examine(paper, layout, locks, **change)
    assert missing(found) == [name]
    assert says in found[name].remedy


def test_a_refusal_is_told_apart_from_a_network_that_is_down(paper, layout, locks):
    refused = examine(paper, layout, locks, access=probe.Access(probe.REFUSED, "gated"))
    assert len(missing(refused)) == 8
    one = refused["hub: meta-llama/Llama-3.2-1B"]
    assert one.remedy == (
        "ask for access at https://huggingface.co/meta-llama/Llama-3.2-1B, check HF_TOKEN"
    )
    down = examine(paper, layout, locks, access=probe.Access(probe.UNREACHABLE, "no route"))
    assert "cannot be reached: no route" in down["hub"].found
    assert "says nothing about the token" in down["hub"].remedy


def test_what_is_here_already_is_not_asked_of_the_hub(paper, layout, locks):
    for name in paper.scale.models:
        layout.model(name).mkdir(parents=True)
    found = examine(paper, layout, locks, has_hub_token=False)
    assert "hub token" not in found
    assert not any("meta-llama" in name for name in found)


def test_without_a_token_gated_models_are_not_asked_for(paper, layout, locks):
    found = examine(paper, layout, locks, has_hub_token=False)
    assert "meta-llama/Llama-3.2-1B are gated" in found["hub token"].found
    assert not any(name.startswith("hub: meta-llama") for name in found)
    assert "hub: openai-community/gpt2" in found


def test_another_engine_is_examined_as_if_the_file_named_it(paper, layout, locks):
    other = paper.with_engine("trl")
    (locks / "trl-gpu.txt").write_text("trl==1.16.0\n")
    found = examine(other, layout, locks, versions_in=None)
    assert found["engine trl"].found == f"can be given the settings of all {len(paper.runs)} runs"
    assert "not made yet" in found["environment trl-gpu"].found
    assert "environment verl-gpu" not in found
    assert "ports" not in found  # Ray's
    assert paper.scale.engine == "verl"
    (locks / "trl-gpu.txt").unlink()
    assert missing(examine(other, layout, locks, gpus=[])) == ["GPUs", "environment trl-gpu"]


def test_settings_that_an_engine_cannot_be_given_are_named(paper, layout, locks):
    (locks / "trl-gpu.txt").write_text("trl==1.16.0\n")
    seven = paper.scale.needs.model_copy(update={"gpus": 7})
    for engine in ("trl", "verl"):
        study = paper.with_engine(engine)
        study.scale = study.scale.model_copy(update={"needs": seven})
        found = examine(study, layout, locks)[f"engine {engine}"]
        assert found.state == "missing"
        assert "does not divide over 7" in found.found
        assert f"{len(study.runs)} of {len(study.runs)} runs" in found.found


def test_environments_are_compared_with_their_locks(paper, layout, locks):
    found = examine(paper, layout, locks, versions_in=None)
    assert found["environment verl-gpu"].state == "note"
    assert "not made yet" in found["environment verl-gpu"].found
    found = examine(paper, layout, locks, versions_in={"verl": "0.7.1"})
    assert found["environment verl-gpu"].state == "note"
    assert "verl 0.7.1, expected 0.5.0" in found["environment verl-gpu"].found
    assert found["environment vllm-gpu"].state == "missing"
    (locks / "verl-gpu.txt").unlink()
    assert examine(paper, layout, locks)["environment verl-gpu"].state == "missing"


def test_what_an_environment_was_made_without_is_not_missed(
    paper, layout, locks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    machine = Complete(versions_in={"verl": "0.5.0"})
    (locks / "verl-gpu.txt").write_text("verl==0.5.0\nvllm==0.8.5\n")
    place = path_of("verl-gpu", locks, FOLDER)
    artifacts.write_json(place / RECORD, {"left_out": ["vllm"]})
    found = doctor.examine(paper, layout, machine, locks=locks)
    (ok, note) = [one for one in found if one.name == "environment verl-gpu"]
    assert (ok.state, ok.found) == ("ok", "all 1 as locked")
    assert (note.state, note.found) == ("note", "made without vllm")


def test_targets_in_easydel_need_its_environment(tmp_path, layout, locks):
    text = (CONFIG / "smoke.yaml").read_text()
    assert "  learner: {" in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("  learner: {", "  learner: {implementation: easydel, ", 1))
    study = config.load(path, CONFIG / "experiments.yaml")
    assert {run.learner.implementation for run in study.runs} == {"easydel"}
    (locks / "easydel.txt").write_text("easydel==0.3.0\n")
    found = examine(study, layout, locks, versions_in={"easydel": "0.3.0"})
    assert found["environment easydel"].state == "ok"


def test_a_build_label_is_no_other_version(paper, layout, locks):
    assert examine(paper, layout, locks, version="1.0+cpu")["packages"].state == "ok"


def test_ports_in_use_are_named(paper, layout, locks):
    found = examine(paper, layout, locks, port_is_free=False)
    assert "6379 (Ray's head)" in found["ports"].found
    assert missing(found) == []


def test_a_judge_dearer_than_its_limit_is_said(paper, layout, locks):
    cheap = paper.scale.model_copy(
        update={"judge": paper.scale.judge.model_copy(update={"max_cost": 0.01})}
    )
    study = config.Study(paper.path, cheap, paper._runs, {}, paper.downstream, {})
    assert "above judge.max_cost $0.01" in examine(study, layout, locks)["judge"].found


def test_a_small_scale_needs_little(tiny, tmp_path, locks):
    layout = Layout("tiny", tmp_path / "results")
    found = examine(tiny, layout, locks, gpus=[], has_hub_token=False, variable=False)
    assert missing(found) == []
    assert found["GPUs"].found == "none, and none needed"
    assert {name for name in found if "hub" in name or name in ("judge", "ports")} == set()


class TestSlurm:
    def test_gpus_are_those_of_the_nodes(self, paper, layout, locks):
        found = examine(paper, layout, locks, "slurm", gpus=[], memory_gb=8.0)
        assert missing(found) == []
        assert found["Slurm"].found == "1 fitting nodes in gpu"

    def test_nodes_that_are_too_small(self, paper, layout, locks):
        nodes = [probe.SlurmNode("a", "cpu", 500.0, 0), probe.SlurmNode("b", "g", 100.0, 4)]
        found = examine(paper, layout, locks, "slurm", slurm_nodes=nodes)
        assert missing(found) == ["Slurm"]
        assert found["Slurm"].found == (
            "a job needs 8 GPUs and 200 GB; the largest has 4 GPUs, 100 GB"
        )

    def test_fewer_nodes_than_a_run_takes(self, paper, layout, locks):
        two = paper.scale.model_copy(
            update={"needs": paper.scale.needs.model_copy(update={"nodes": 2})}
        )
        study = config.Study(paper.path, two, paper._runs, {}, paper.downstream, {})
        found = examine(study, layout, locks, "slurm")["Slurm"]
        assert found.state == "missing"
        assert found.found.startswith(
            "a job needs 8 GPUs and 200 GB on each of 2 nodes, and 1 fit; the largest"
        )

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"has_command": False}, "no sbatch"), ({"slurm_nodes": None}, "no controller answers")],
    )
    def test_no_slurm(self, paper, layout, locks, change, says):
        found = examine(paper, layout, locks, "slurm", **change)
        assert missing(found) == ["Slurm"]
        assert says in found["Slurm"].found

    def test_without_accounting_a_command_line_is_given(self, paper, layout, locks):
        found = examine(paper, layout, locks, "slurm", has_slurm_accounting=False)
        assert "--slurm-status-command squeue" in found["Slurm accounting"].remedy

    def test_the_plugin(self, paper, layout, locks):
        (locks / "core.txt").write_text("")
        found = examine(paper, layout, locks, "slurm", version=None)
        assert missing(found) == ["executor"]
        assert "pip install snakemake-executor-plugin-slurm" in found["executor"].remedy

    def test_nodes_are_read_as_sinfo_writes_them(self):
        text = "a|gpu*|1031000+|gpu:h100:8(S:0-1),shard:16\nb|cpu|256000|(null)\n"
        a, b = probe.parse_nodes(text)
        assert (a.partition, a.gpus, round(a.memory_gb)) == ("gpu", 8, 1081)
        assert (b.partition, b.gpus) == ("cpu", 0)


class TestKubernetes:
    def test_the_clusters_nodes_count_not_this_machine(self, paper, layout, locks):
        found = examine(paper, layout, locks, "kubernetes", gpus=[], memory_gb=8.0)
        assert missing(found) == []

    def test_what_the_profile_calls_and_must_be_told(self, paper, layout, locks):
        found = examine(paper, layout, locks, "kubernetes", has_command=False)
        assert missing(found) == ["Kubernetes"]
        # A variable that is not set is the judge's key, too.
        found = examine(paper, layout, locks, "kubernetes", variable=False)
        assert missing(found) == ["pods", "judge"]
        assert "DPG_KUBERNETES_CLAIM" in found["pods"].remedy

    def test_the_variables_are_those_that_the_profile_reads(self):
        profile = (ROOT / "profiles" / "kubernetes" / "submit.py").read_text()
        for name in checks.KUBERNETES_VARIABLES:
            assert re.search(rf"environment\[\"{name}\"\]", profile)

    def test_the_plugin_is_the_one_that_the_profile_names(self):
        text = (ROOT / "profiles" / "kubernetes" / "config.yaml").read_text()
        (executor,) = re.findall(r"^executor: (\S+)$", text, re.M)
        assert checks.PLUGINS["kubernetes"] == f"snakemake-executor-plugin-{executor}"


def test_every_finding_is_shown_with_its_remedy(paper, layout, locks):
    from rich.console import Console

    found = [*doctor.examine(paper, layout, Complete(gpus=[]), locks=locks)]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(doctor.table([*found, replace(found[0], found="[bold]x")], "Scale"))
    text = console.export_text()
    assert "a job needs 8" in text
    assert "[bold]x" in text


def test_profiles_are_folders_of_the_workflow():
    for name in checks.PROFILES:
        assert (ROOT / "profiles" / name / "config.yaml").is_file()
