"""Fixtures for the tests of engines: `engine_runs.py`, and a Slurm job of two nodes.

The job's nodes are a1 (this machine) and a2. Its commands are stand-ins.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

STAND_IN = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    print(json.dumps([sys.argv, dict(os.environ)]), file=log)
if "hostnames" in sys.argv:
    assert sys.argv[-1] == "a[1-2]"
    print("a1\\na2")
elif "job" in sys.argv:
    assert sys.argv[-1] == "7"
    print("JobId=7 ReqNodeList=(null) NodeList=a[1-2] NumNodes=2")
elif "node" in sys.argv:
    print("NodeName=a2 NodeAddr=127.0.0.1 State=MIXED")
else:
    import signal, socket
    for option in sys.argv:
        if option.startswith("--port=") and {answers}:
            head = socket.create_server(("127.0.0.1", int(option[7:])))
    if {answers}:
        signal.pause()
    sys.exit("out of order")
"""


@pytest.fixture
def job():
    """The variables of the job's first node."""
    return {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a1", "SLURMD_NODENAME": "a1"}


@pytest.fixture(params=[True])
def commands(tmp_path, monkeypatch, request):
    """Stand-ins for Python, srun and scontrol. The fixture's function returns their arguments."""
    log = tmp_path / "calls.jsonl"
    for name in ("python", "srun", "scontrol"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, log=str(log), answers=request.param))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def calls():
        lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
        return {(argv[0].rpartition("/")[2], *argv[1:2]): (argv, env) for argv, env in lines}

    return calls
