import hashlib, sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
import pytest
from dpg.generators.jax.engine import run_generator
from dpg.run_folder import RunFolder
def test_bytes(world, tmp_path):
    for name in (("sixseven", "adam-T4"), ("lambada-es", "adam"), ("sixseven","naive-T4")):
        run = world.study.run(*name, 0)
        f = RunFolder(tmp_path / name[0] / name[1])
        run_generator(run, world.inputs(run), f)
        for p in (f.metrics, f.rollouts, f.generator / "model.safetensors"):
            print("BYTES", name, p.name, hashlib.sha256(p.read_bytes()).hexdigest()[:16])
