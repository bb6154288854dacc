"""`dpg doctor`: each thing that a study needs is looked at, and what is missing is named."""

import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from dpg import config, doctor
from dpg.doctor import checks, forecast, probe
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
        return [probe.SlurmNode("node1", "gpu", 96, 2000.0, 8)]

    def has_slurm_accounting(self):
        return True


@pytest.fixture(scope="module")
def paper():
    return config.load(CONFIG / "paper.yaml", CONFIG / "experiments.yaml")


@pytest.fixture(scope="module")
def tiny():
    return config.load(CONFIG / "tiny.yaml", CONFIG / "experiments.yaml")


@pytest.fixture
def layout(tmp_path):
    return Layout("paper", tmp_path / "results")


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


def test_environments_are_compared_with_their_locks(paper, layout, locks):
    found = examine(paper, layout, locks, versions_in=None)
    assert found["environment verl-gpu"].state == "note"
    assert "not made yet" in found["environment verl-gpu"].found
    found = examine(paper, layout, locks, versions_in={"verl": "0.7.1"})
    assert found["environment verl-gpu"].state == "note"
    assert "verl 0.7.1 for 0.5.0" in found["environment verl-gpu"].found
    assert found["environment vllm-gpu"].state == "missing"
    (locks / "verl-gpu.txt").unlink()
    assert examine(paper, layout, locks)["environment verl-gpu"].state == "missing"


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
        nodes = [probe.SlurmNode("a", "cpu", 64, 500.0, 0), probe.SlurmNode("b", "g", 64, 100.0, 4)]
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
        text = "a|gpu*|96+|1031000+|gpu:h100:8(S:0-1),shard:16\nb|cpu|64|256000|(null)\n"
        a, b = probe.parse_nodes(text)
        assert (a.partition, a.cpus, a.gpus, round(a.memory_gb)) == ("gpu", 96, 8, 1081)
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


class TestForecast:
    def test_the_papers_study(self, paper, layout):
        found = doctor.estimate(paper, layout)
        assert (found.runs, found.all_runs) == (48, 48)
        # 24 runs of 120 steps, a validation every 5 and one at the start, 256 rollouts kept.
        assert found.judged == 24 * 25 * 256
        # 48 generators of 1.2 billion float32 parameters are the largest part.
        assert 48 * 1.2358 * 4 < found.disk_gb < 2 * 48 * 1.2358 * 4 + 300
        assert 1 < found.judge_dollars < 20
        assert found.unknown == ()
        hours = found.gpu_hours
        assert hours.low < hours.high
        assert hours.low == pytest.approx(
            found.generator_hours.low + found.target_hours.low + found.downstream_hours.low
        )

    def test_operations_of_a_run_by_hand(self, paper):
        run = paper.run("lambada-es", "adam", 0)
        n, prompt, response, steps = 1024, 1024, 128, 120
        step = (2 + 2 + 6) * 1e9 * n * (prompt + response)
        validation = 2e9 * n * (prompt + response)
        expected = steps * step + 25 * validation
        assert forecast.generator_operations(run, 10**9) == pytest.approx(expected)

    def test_equal_rollouts_cost_the_target_alike_whatever_their_steps(self, paper):
        long, middle = (
            forecast.target_operations(paper.run("sixseven", f"adam-{T}", 0), 10**8)
            for T in ("T96", "T8")
        )
        assert long == pytest.approx(middle, rel=1e-6)

    def test_a_reward_without_a_target_trains_it_for_validation_alone(self, paper):
        embedding = forecast.target_operations(paper.run("lambada-es", "embedding", 0), 10**9)
        adam = forecast.target_operations(paper.run("lambada-es", "adam", 0), 10**9)
        assert 0 < embedding < adam / 4

    def test_what_is_made_is_not_counted_again(self, paper, layout):
        before = doctor.estimate(paper, layout)
        for run in paper.runs:
            folder = layout.run_of(run).path
            if run.experiment != "uuid":
                folder.mkdir(parents=True)
                (folder / "run.json").write_text("{}")
                (folder / "judged.parquet").write_text("")
        after = doctor.estimate(paper, layout)
        assert after.runs == 3
        assert after.judged == after.judge_dollars == 0
        assert 0 < after.gpu_hours.high < before.gpu_hours.high

    def test_a_model_that_is_here_is_counted_by_its_tensors(self, paper, layout):
        folder = layout.model("gpt2")
        folder.mkdir(parents=True)
        tensors = {"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        assert forecast.parameters(paper.scale.models["gpt2"], folder) == 22

    def test_a_model_of_unknown_size_is_said(self, paper, layout):
        stranger = config.HubModel(source="hub", repository="someone/else")
        models = {**paper.scale.models, "gpt2": stranger}
        scale = paper.scale.model_copy(update={"models": models})
        study = config.Study(paper.path, scale, paper._runs, {}, paper.downstream, {})
        found = doctor.estimate(study, layout)
        assert found.unknown == ("gpt2",)
        assert "not before it is fetched: gpt2" in " ".join(doctor.costs(study, found)).replace(
            "known before", "before"
        )

    def test_a_judge_without_a_price(self, paper, layout):
        judge = paper.scale.judge.model_copy(update={"model": "another"})
        scale = paper.scale.model_copy(update={"judge": judge})
        study = config.Study(paper.path, scale, paper._runs, {}, paper.downstream, {})
        assert doctor.estimate(study, layout).judge_dollars is None

    def test_no_gpu_hours_where_no_gpu_is_needed(self, tiny, tmp_path):
        found = doctor.estimate(tiny, Layout("tiny", tmp_path))
        assert found.gpu_hours is None
        assert found.judge_dollars == 0
        assert "none, the scale asks for no GPU" in "\n".join(doctor.costs(tiny, found))

    def test_ranges(self):
        assert str(forecast.Range(1234.0, 5678.0)) == "1,200 to 5,700"
        assert str(forecast.Range(0.0, 0.0)) == "0"


class TestThisMachine:
    def test_it_is_looked_at(self, tmp_path):
        here = probe.Machine()
        assert here.memory_gb() > 0.5
        assert here.cpus() >= 1
        assert here.free_disk_gb(tmp_path / "not" / "there") > 0
        assert here.version("numpy") == np.__version__
        assert here.version("no-such-package") is None
        assert here.versions_in(tmp_path) is None
        assert here.versions_in(Path(sys.prefix))["numpy"] == np.__version__

    def test_a_port_in_use_is_seen(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            assert not probe.Machine().port_is_free(port)
        assert probe.Machine().port_is_free(port)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: by repository, and by whether the token is the right one."""

    def do_GET(self):
        status, code = 200, None
        if "missing" in self.path:
            status, code = 404, "RepoNotFound"
        elif "broken" in self.path:
            status = 500
        elif "gated" in self.path and self.headers.get("Authorization") != "Bearer right":
            status, code = 403, "GatedRepo"
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(endpoint, token, tmp_path, *repositories, offline="0"):
    """Ask in a process of its own: the hub's client reads its settings once, at import."""
    program = (
        "import sys; from dpg.doctor import Machine\n"
        "for name in sys.argv[1:]: print(Machine().access(name, 'model').state)"
    )
    environment = {
        **{k: v for k, v in os.environ.items() if "PROXY" not in k.upper()},
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": offline,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *repositories],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.integration
def test_what_the_hub_answers_is_told_apart(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    names = ("a/open", "a/gated", "a/missing", "a/broken")
    wrong = ask(hub, "wrong", tmp_path, *names)
    assert wrong == ["reached", "refused", "absent", "unknown"]
    assert ask(hub, "right", tmp_path, "a/gated") == ["reached"]
    assert ask(hub, "right", tmp_path, "a/open", offline="1") == ["unknown"]


def test_a_hub_that_is_not_there_is_unreachable(tmp_path):
    pytest.importorskip("huggingface_hub")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}", "right", tmp_path, "a/open") == ["unreachable"]


def run_doctor(*arguments, folder):
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "OPENAI_API_KEY")}
    environment |= {"COLUMNS": "160", "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dpg", "doctor", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_prints_what_is_missing_and_what_it_will_cost(tmp_path):
    done = run_doctor("--scale", "paper", folder=tmp_path)
    assert done.returncode == 1
    assert re.search(r"missing\s+hub token", done.stdout)
    assert "OPENAI_API_KEY" in done.stdout
    assert re.search(r"GPU-hours, estimated and not measured: [\d,]+ to [\d,]+", done.stdout)
    assert re.search(r"judge \(openai\): 153,600 texts, \$\d", done.stdout)
    assert "Traceback" not in done.stderr


def test_the_command_ends_well_where_nothing_is_missing(tmp_path):
    done = run_doctor("--scale", "smoke", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing needed is missing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give --scale"),
        (("--scale", "papr"), "config/papr.yaml: no such file"),
        (("--scale", "tiny", "--profile", "cloud"), "expected one of default, slurm, kubernetes"),
    ],
)
def test_a_wrong_call_is_one_paragraph(arguments, says, tmp_path):
    done = run_doctor(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


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
