"""The nodes of a Slurm job, and errors where there is no job step."""

import pytest

from dpg.errors import DpgError
from dpg.generators import slurm


def test_the_other_nodes_are_those_without_this_one(commands, job):
    assert slurm.other_nodes(job, 2, "") == ["a2"]


def test_a_shell_on_a_login_node_is_no_job_step(commands, job):
    del job["SLURMD_NODENAME"]
    with pytest.raises(DpgError, match=r"(?s)job 7: .*SLURMD_NODENAME.*job step.*srun.*sbatch"):
        slurm.other_nodes(job, 2, "")
    assert commands() == {}


def test_a_machine_without_slurms_commands_is_an_error(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    says = r"`scontrol --oneliner show job 7`: there is no scontrol.*job step.*srun.*sbatch"
    with pytest.raises(DpgError, match=says):
        slurm.other_nodes(job, 2, "")
