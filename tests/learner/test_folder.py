"""A call that was stopped at any action goes on to the same bits; progress tells what happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import regression, small_transformer

from dpg.learner import LearnerError, folder, metagradient, plans, train

ALL = ("weights", "hyperparameters", "params", "batches")


class StoppedError(Exception):
    pass


def optimizer_of(name="adamw"):
    return {
        "adamw": lambda: optax.inject_hyperparams(optax.adamw)(2e-2, eps_root=1e-9),
        "sgd": lambda: optax.sgd(0.05),
        "noisy": lambda: optax.noisy_sgd(1e-2, key=jax.random.key(3)),
        "moments in bfloat16": lambda: optax.adamw(1e-2, mu_dtype=jnp.bfloat16, eps_root=1e-9),
    }[name]()


@pytest.fixture
def at_every_action(monkeypatch):
    monkeypatch.setattr(folder, "SHARE", 0)


def stopping(after):
    """A callback that raises when it is called for the nth time."""
    times = []

    def progress(_):
        times.append(1)
        if len(times) == after:
            raise StoppedError

    return progress


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("plan", [plans.keep_all(5), plans.binomial(5, 2)])
def test_a_call_stopped_anywhere_goes_on_to_the_same_bits(tmp_path, plan, at_every_action):
    task, options = regression(), {"wrt": ALL, "schedule": plan}
    free = metagradient(*task, optimizer_of(), **options)
    steps = sum(kind in ("advance", "record", "reverse") for kind, _ in plan.actions)
    for after in range(1, steps + 1):
        place = tmp_path / str(after)
        with pytest.raises(StoppedError):
            metagradient(*task, optimizer_of(), folder=place, progress=stopping(after), **options)
        told = []
        result = metagradient(*task, optimizer_of(), folder=place, progress=told.append, **options)
        same(result, free)
        assert after < 3 or len(told) < steps  # it went on, and did not begin anew
        assert told[-1].fraction == 1.0


@pytest.mark.parametrize("name", ["sgd", "noisy", "moments in bfloat16"])
def test_states_of_every_kind_come_back_from_their_files(tmp_path, name):
    task = regression()
    free = metagradient(*task, optimizer_of(name))
    with pytest.raises(StoppedError):
        metagradient(*task, optimizer_of(name), folder=tmp_path, progress=stopping(6))
    same(metagradient(*task, optimizer_of(name), folder=tmp_path), free)


def test_several_metrics_go_on(tmp_path):
    task = regression()
    both = task._replace(metric=lambda p, i: jnp.stack([task.metric(p, i), jnp.sum(p[0] ** 2)]))
    free = metagradient(*both, optimizer_of(), wrt=ALL)
    with pytest.raises(StoppedError):
        metagradient(*both, optimizer_of(), wrt=ALL, folder=tmp_path, progress=stopping(8))
    same(metagradient(*both, optimizer_of(), wrt=ALL, folder=tmp_path), free)


def test_a_finished_call_gives_its_result_at_once_and_keeps_little(tmp_path):
    task = regression()
    first = metagradient(*task, optimizer_of(), folder=tmp_path, wrt=ALL)
    done = len(plans.keep_all(5).actions)
    assert {file.name for file in tmp_path.iterdir()} == {"now.json", f"walk-{done}.npz"}
    told = []
    again = metagradient(*task, optimizer_of(), folder=tmp_path, wrt=ALL, progress=told.append)
    same(again, first)
    assert not told


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import jax, numpy as np, optax, os, signal
jax.config.update("jax_enable_x64", True)
from learner_tasks import regression
from dpg.learner import folder, metagradient
folder.SHARE = 0
times = []
def progress(now):
    times.append(now)
    if len(times) == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
found = metagradient(*regression(T=6), optax.adamw(2e-2, eps_root=1e-9), folder={folder!r},
                     progress=progress, memory=3_000)
np.save({out!r}, found.weights_grad)
print(len(times))
"""


@pytest.mark.integration
def test_a_killed_process_goes_on(tmp_path):
    def start(kill, name="state"):
        given = {"tests": str(Path(__file__).parent), "folder": str(tmp_path / name)}
        code = SCRIPT.format(**given, kill=kill, out=str(tmp_path / f"{name}.npy"))
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ, capture_output=True, check=False
        )

    whole = start(0, "free")
    assert whole.returncode == 0, whole.stderr.decode()
    for kill in (3, 4, 5):
        assert start(kill).returncode == -signal.SIGKILL
    end = start(0)
    assert end.returncode == 0, end.stderr.decode()
    assert int(end.stdout) < int(whole.stdout)
    np.testing.assert_array_equal(np.load(tmp_path / "state.npy"), np.load(tmp_path / "free.npy"))


def test_progress_counts_what_the_schedule_computes():
    task, told = regression(T=9), []
    plan = plans.binomial(9, 3)
    metagradient(*task, optimizer_of(), schedule=plan, progress=told.append)
    assert [x.reversed for x in told if x.reversed][-1] == 9
    assert told[-1].trained == plan.trained
    fractions = [x.fraction for x in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert fractions[-2] < 1.0
    told.clear()
    train(task.loss, task.params, task.batches, optimizer_of(), progress=told.append)
    assert [x.trained for x in told] == list(range(1, 10))


# --- bad input -------------------------------------------------------------------------------


def bad(message, **options):
    with pytest.raises(LearnerError, match=message):
        metagradient(*regression(), optimizer_of(), **options)


def test_another_calls_folder(tmp_path):
    metagradient(*regression(), optimizer_of(), folder=tmp_path)
    bad("is of a call with other weights, .*delete it", folder=tmp_path, weights=np.full((5, 4), 2))
    bad("other schedule", folder=tmp_path, schedule=plans.binomial(5, 2))
    changed = regression()
    changed = changed._replace(batches=changed.batches | {"y": changed.batches["y"] + 1})
    with pytest.raises(LearnerError, match="other batches"):
        metagradient(*changed, optimizer_of(), folder=tmp_path)


def scaled(value):
    return jax.tree_util.Partial(lambda scale, p, batch: scale * regression().loss(p, batch), value)


def on_passages(values):
    return lambda p, initial: jnp.sum(values @ p[0])


def test_another_calls_loss_metric_or_optimizer(tmp_path):
    task = regression()
    rate = 1e-3
    first = task._replace(loss=scaled(jnp.ones(())), metric=on_passages(jnp.ones((3, 6))))
    metagradient(*first, optax.adam(rate), folder=tmp_path)
    for name, other in (
        ("loss", first._replace(loss=task.loss)),
        ("loss", first._replace(loss=scaled(jnp.asarray(2.0)))),
        ("metric", first._replace(metric=task.metric)),
        ("metric", first._replace(metric=on_passages(jnp.full((3, 6), 2.0)))),
        ("metric", first._replace(metric=on_passages(np.full((3, 6), 2.0)))),
    ):
        with pytest.raises(LearnerError, match=f"is of a call with other {name}, or of another"):
            metagradient(*other, optax.adam(rate), folder=tmp_path)
    for other in (optax.adam(1e-1), optax.adam(rate, b2=0.9), optax.adamw(rate)):
        with pytest.raises(LearnerError, match="is of a call with other optimizer, or of another"):
            metagradient(*first, other, folder=tmp_path)


def test_functions_made_anew_are_of_the_same_call(tmp_path):
    def call():
        task = regression()
        metric = on_passages(jnp.ones((3, 6)))
        task = task._replace(loss=scaled(jnp.ones(())), metric=metric)
        return metagradient(*task, optax.inject_hyperparams(optax.adam)(1e-3), folder=tmp_path)

    first, told = call(), []
    same(call(), first)
    assert not told


def test_another_microbatch_goes_on_with_the_same_call(tmp_path):
    task = regression()
    with pytest.raises(StoppedError):
        metagradient(*task, optimizer_of(), folder=tmp_path, progress=stopping(6))
    found = metagradient(*task, optimizer_of(), folder=tmp_path, microbatch=2)
    np.testing.assert_allclose(
        found.weights_grad, metagradient(*task, optimizer_of()).weights_grad, rtol=1e-9
    )


def test_what_a_kill_left_half_written_is_deleted(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [
        tmp_path / f".{name}.{process}"
        for name in ("state-3.npz", "gradient-0.npz", "walk-7.npz", "now.json")
        for process in (ended.pid, os.getpid())
    ]
    running = tmp_path / f".state-3.npz.{os.getppid()}"
    other = tmp_path / ".hidden"
    for file in (*left, running, other):
        file.write_bytes(b"x" * 10**6)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "disk_usage", lambda _: usage._replace(free=0))
        bad("has 0 bytes free", folder=tmp_path)  # what is left will not be written over
    assert not any(file.exists() for file in left)
    metagradient(*regression(), optimizer_of(), folder=tmp_path)
    done = len(plans.keep_all(5).actions)
    kept = {"now.json", f"walk-{done}.npz", running.name, other.name}
    assert {file.name for file in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("text", ["", '{"done": 3', "[]", '{"done": 3}', b"\xff"])
def test_a_damaged_bookmark(tmp_path, text):
    (tmp_path / "now.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    bad(r"now\.json cannot be read .*delete the folder", folder=tmp_path)


def test_too_little_disk_is_said_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    told = []
    bad(r"has .* free; kept states and gradients take up to .*smaller budget",
        folder=tmp_path / "x", progress=told.append)  # fmt: skip
    assert not told


def test_a_damaged_file(tmp_path):
    with pytest.raises(StoppedError):
        metagradient(*regression(), optimizer_of(), folder=tmp_path, progress=stopping(7))
    done = json.loads((tmp_path / "now.json").read_text())["done"]
    (tmp_path / f"walk-{done}.npz").write_bytes(b"PK")
    bad(r"walk-\d+.npz cannot be read .*delete the folder", folder=tmp_path)


def test_what_does_not_go_with_a_folder(tmp_path):
    bad("host_memory=True; expected one of the two", folder=tmp_path, host_memory=True)
    bad("schedule of 4 tapes", folder=tmp_path, schedule=plans.keep_all(5, tapes=4))
    (tmp_path / "file").write_text("")
    bad("cannot be made", folder=tmp_path / "file")


@pytest.mark.integration
def test_a_transformer_goes_on(tmp_path):
    task, optimizer = small_transformer(), optimizer_of()
    free = metagradient(*task, optimizer, wrt=("params", "hyperparameters"))
    with pytest.raises(StoppedError):
        metagradient(*task, optimizer, wrt=("params", "hyperparameters"), folder=tmp_path,
                     progress=stopping(6))  # fmt: skip
    again = metagradient(*task, optimizer, wrt=("params", "hyperparameters"), folder=tmp_path)
    same(again, free)


def test_a_dataset_with_empty_places_goes_on_from_anywhere(tmp_path, at_every_action):
    task = regression(T=4)
    data = jax.tree.map(lambda x: np.concatenate(np.asarray(x)), task.batches)
    index = np.arange(16).reshape(4, 4)
    index[1, 3] = index[2, 2] = -1
    given, options = (*task[:3], data, optimizer_of()), {"index": index}
    free = metagradient(*given, **options)
    actions = plans.keep_all(4).actions
    steps = sum(kind in ("advance", "record", "reverse") for kind, _ in actions)
    for after in range(1, steps + 1):
        here = tmp_path / str(after)
        with pytest.raises(StoppedError):
            metagradient(*given, folder=here, progress=stopping(after), **options)
        same(metagradient(*given, folder=here, **options), free)
    same(metagradient(*given, folder=here, **options), free)
