"""TRL on several machines: what is started where, with a stand-in for Slurm's commands."""

import os

import pytest

from dpg.errors import DpgError
from dpg.generators.trl import launch, machines
from dpg.generators.trl.run import Run, Shape
from dpg.run_folder import RunState


def joined(tmp_path, environment, nodes, gpus=0):
    python = tmp_path / "bin" / "python"
    return machines.joined(python, environment, RunState(tmp_path), nodes=nodes, gpus=gpus)


def test_one_machine_starts_nothing_elsewhere(tmp_path, commands, job):
    with joined(tmp_path, job, nodes=1) as found:
        assert found == machines.Machines([], [])
    with joined(tmp_path, {"DPG_MASTER": "a1:5000"}, nodes=2) as found:
        assert found == machines.Machines(["--master", "a1:5000"], [])
    assert commands() == {}


def test_srun_starts_torchrun_on_the_jobs_other_nodes(tmp_path, commands, job, wait_until):
    given = {**job, "PATH": os.environ["PATH"], "SLURM_NTASKS": "1", "OMP_NUM_THREADS": "1"}
    with joined(tmp_path, given, nodes=2, gpus=8) as found:
        wait_until(lambda: ("srun", "--overlap") in commands(), 60)
        (others,) = found.others
        assert others.name == "torchrun on a2"
    option, master = found.options
    assert option == "--master"
    assert master.startswith("127.0.0.1:")
    command, variables = commands()["srun", "--overlap"]
    assert {"--nodelist=a2", "--nodes=1", "--ntasks=1", "--gpus-per-node=8"} <= set(command)
    place = command.index("dpg.generators.trl.launch")
    assert command[place - 2].endswith("/python")
    assert command[place + 1 :] == [
        *(str(tmp_path / "worker.json"), "--node", "srun", "--master", master)
    ]
    assert "SLURM_NTASKS" not in variables  # srun would take it for an option of its own
    assert variables["OMP_NUM_THREADS"] == "1"


def test_several_machines_outside_of_slurm_are_an_error_that_says_how(tmp_path, commands):
    says = r"takes 2 machines.*Slurm job of 2 nodes.*DPG_MASTER.*worker\.json --node 1 --master"
    with pytest.raises(DpgError, match=says), joined(tmp_path, {}, nodes=2):
        pass


def test_torchrun_is_told_of_the_other_machines(tmp_path):
    run = Run(**dict.fromkeys(Run._fields, None) | {"shape": Shape(2, 8, 2, 8, 1, 4, 4, nodes=2)})
    told = launch.torchrun_arguments(run, "run.json", node=1, master="10.0.0.1:5000")
    assert told == [
        *("--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=5000"),
        *("--nproc-per-node=2", "--module", "dpg.generators.trl.worker", "run.json"),
    ]


def test_a_machine_waits_for_the_runs_file(tmp_path):
    with pytest.raises(DpgError, match=r"worker\.json is not there after 0 s: `dpg generate` on"):
        launch.wait_for(tmp_path / "worker.json", seconds=0)
    (tmp_path / "worker.json").touch()
    launch.wait_for(tmp_path / "worker.json", seconds=0)
