"""Ray on several machines: what is started where, with a stand-in for Slurm's commands."""

import os

import pytest

from dpg.errors import DpgError
from dpg.generators.verl import ray_cluster


def joined(tmp_path, environment, nodes, gpus=0):
    python = tmp_path / "bin" / "python"
    return ray_cluster.joined(python, environment, tmp_path, nodes=nodes, gpus=gpus)


def test_one_machine_and_a_given_cluster_start_nothing(tmp_path, commands):
    with joined(tmp_path, {"A": "1"}, nodes=1) as found:
        assert found == {"A": "1"}
    given = {"RAY_ADDRESS": "head:6379"}
    with joined(tmp_path, given, nodes=2) as found:
        assert found == given
    assert commands() == {}


def test_the_head_is_here_and_the_rest_on_the_jobs_other_nodes(tmp_path, commands, job, wait_until):
    given = {**job, "PATH": os.environ["PATH"], "SLURM_NTASKS": "1", "OMP_NUM_THREADS": "1"}
    with joined(tmp_path, given, nodes=2, gpus=8) as found:
        address = found["RAY_ADDRESS"]
        token = found["RAY_AUTH_TOKEN"]
        joins = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        assert {**given, **joins} == found
        assert address.startswith("127.0.0.1:")
        wait_until(lambda: {("python", "-m"), ("srun", "--overlap")} <= commands().keys(), 60)
    head, variables = commands()["python", "-m"]
    port = address.partition(":")[2]
    assert head[1:4] == ["-m", "ray.scripts.scripts", "start"]
    assert head[4:7] == ["--head", "--node-ip-address=127.0.0.1", f"--port={port}"]
    assert "--num-gpus=8" in head
    # Otherwise srun would take them for options of its own.
    assert "SLURM_NTASKS" not in variables
    assert variables["SLURM_JOB_ID"] == "7"
    assert variables["OMP_NUM_THREADS"] == "1"
    rest, others = commands()["srun", "--overlap"]
    assert variables["RAY_AUTH_TOKEN"] == others["RAY_AUTH_TOKEN"] == token
    assert len(token) == 64
    assert {"--nodelist=a2", "--nodes=1", "--ntasks=1", "--gpus-per-node=8"} <= set(rest)
    assert rest[rest.index("start") - 3].endswith("/python")
    assert f"--address={address}" in rest


def test_several_machines_without_a_cluster_are_an_error(tmp_path, commands):
    with (
        pytest.raises(DpgError, match=r"takes 2 machines.*Slurm job of 2 nodes.*RAY_ADDRESS"),
        joined(tmp_path, {}, nodes=2),
    ):
        pass


@pytest.mark.parametrize("commands", [False], indirect=True)
def test_a_head_that_does_not_start_is_an_error_with_its_log(tmp_path, commands, job):
    given = {**job, "PATH": os.environ["PATH"]}
    with (
        pytest.raises(DpgError, match=r"(?s)Ray did not start at 127\.0\.0\.1:.*out of order"),
        joined(tmp_path, given, nodes=2),
    ):
        pass


def test_a_job_of_other_size_is_an_error(tmp_path, commands, job):
    with (
        pytest.raises(DpgError, match=r"takes 3 machines.*job 7 has 2: a1, a2"),
        joined(tmp_path, job, nodes=3),
    ):
        pass
