"""Resume a long call that was killed, from a folder that holds its state.

Kept states and gradients are files instead of arrays in memory. The folder also holds the rest of
the walk: the current state of training, the adjoints and the rows so far. That part is written
again from time to time, so rarely that writing takes at most about a twentieth of the time. A file
is written under another name first, so a kill leaves the old file or the new file whole.

`now.json` names the last action of the schedule that is saved. A repeated call goes on after that
action. Its numbers are the same, bit for bit, as those of a call that was never stopped. What was
kept at that action stays on disk until `now.json` names a later one.
"""

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.learner import programs
from dpg.learner.errors import LearnerError
from dpg.learner.kept import What
from dpg.learner.run import Run
from dpg.learner.schedule import Schedule
from dpg.learner.traced import traced
from dpg.quantities import in_bytes

Tree = Any
Array = Any

_NOW = "now.json"
_PARTIAL = re.compile(r"\.(?:now\.json|\w+-\d+\.npz)\.(\d{1,9})")
"""The name of a file that is being written, by the process of this number."""
SHARE = 20
"""Writing the state of the walk takes at most about 1/SHARE of the time."""


class OnDisk:
    """Kept states and gradients as files, with the methods of `dpg.learner.kept.Kept`.

    Attributes:
        shares: False: nobody else holds what `get` returns.
    """

    shares = False

    def __init__(self, folder: Path, run: Run):
        self.folder = folder
        likes = {"state": (run.params, run.state), "gradient": run.params}
        self.likes = jax.tree.map(_like, likes)
        self.held: set[tuple[What, int]] = set()
        self.sizes: dict[str, int] = {}  # of all files in the folder, dropped ones included

    def put(self, what: What, t: int, tree: Tree) -> None:
        """Write a tree to its file."""
        name = _file(what, t)
        leaves = jax.tree.leaves(tree)
        save(self.folder / name, {str(i): leaf for i, leaf in enumerate(leaves)})
        self.sizes[name] = sum(leaf.nbytes for leaf in leaves)
        self.held.add((what, t))

    def get(self, what: What, t: int) -> Tree:
        """A tree, read from its file to the device."""
        likes, treedef = jax.tree.flatten(self.likes[what])
        found = load(self.folder / _file(what, t))
        leaves = [placed(found[str(i)], like) for i, like in enumerate(likes)]
        return jax.tree.unflatten(treedef, leaves)

    def take(self, what: What, t: int) -> Tree:
        """A tree, read from its file to the device, and no longer kept."""
        tree = self.get(what, t)
        self.drop(what, t)
        return tree

    def has(self, what: What, t: int) -> bool:
        """Whether such a tree is kept."""
        return (what, t) in self.held

    def drop(self, what: What, t: int) -> None:
        """Forget a tree. Its file is deleted after the next `now.json` is written."""
        self.held.remove((what, t))

    def clean(self) -> None:
        """Delete the files of the trees that are no longer kept."""
        for name in self.sizes.keys() - {_file(*key) for key in self.held}:
            (self.folder / name).unlink(missing_ok=True)
            del self.sizes[name]


class Bookmark:
    """The state of the walk, in a folder."""

    TREES = ("params", "state", "trained", "value", "adjoint", "adjoint_state", "by_initial")
    ROWS = ("losses", "rows", "hyper", "inputs")

    def __init__(self, back: Any, schedule: Schedule, kept: OnDisk):
        self.back = back
        self.kept = kept
        self.actions = len(schedule.actions)
        self.run: Run = back.run
        K = back.wanted.several or 1
        state, gradient = self.run.state_bytes, self.run.gradient_bytes
        self.trees = schedule.peak_bytes(state, gradient)
        # One old and one new: parameters and state, the adjoints of both, and what was trained.
        self.walk = 2 * (state + K * (state + gradient) + gradient)
        self.identity = identity(back, schedule)
        self._written, self._took = -np.inf, 0.0

    def open(self) -> int:
        """Make the folder, or restore the walk from it.

        What a killed call had not finished writing is deleted.

        Returns:
            The number of actions that are done.

        Raises:
            LearnerError: the folder belongs to another call, is damaged, or its disk is too small.
        """
        folder = self.kept.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LearnerError(
                f"folder = {str(folder)!r} cannot be made: {error}; expected a folder that only "
                "this call uses"
            ) from error
        _delete_partial(folder)
        done = self._restore() if (folder / _NOW).exists() else 0
        there = sum(file.stat().st_size for file in folder.glob("[!.]*") if file.is_file())
        need, free = self.trees + self.walk, shutil.disk_usage(folder).free
        if free + there < need:
            raise LearnerError(
                f"folder = {str(folder)!r} has {in_bytes(free)} free; kept states and gradients "
                f"take up to {in_bytes(need)}: choose another disk, or a smaller budget (memory=)"
            )
        return done

    def after(self, number: int) -> None:
        """Write the state of the walk if it is time, or if this was the last action."""
        last = number == self.actions - 1
        if last:
            self.kept.held.clear()  # the schedule does not drop the first state
        full = sum(self.kept.sizes.values()) > self.trees
        if last or full or time.monotonic() - self._written >= SHARE * self._took:
            began = time.monotonic()
            self._write(number + 1)
            self._written = time.monotonic()
            self._took = self._written - began

    def _write(self, done: int) -> None:
        back, folder = self.back, self.kept.folder
        here = {
            f"{name}/{i}": leaf
            for name in self.TREES
            for i, leaf in enumerate(jax.tree.leaves(getattr(back, name)))
        }
        for name in self.ROWS:
            for t, row in enumerate(getattr(back, name)):
                here |= {f"{name}/{t}/{i}": x for i, x in enumerate(jax.tree.leaves(row))}
        save(folder / f"walk-{done}.npz", here)
        now = {
            "done": done,
            "kept": sorted(self.kept.held),
            "there": [name for name in self.TREES if getattr(back, name) is not None],
            "identity": self.identity,
        }
        with _Whole(folder / _NOW) as partial:
            partial.write_text(json.dumps(now), encoding="utf-8")
        for old in folder.glob("walk-*.npz"):
            if old.name != f"walk-{done}.npz":
                old.unlink()
        self.kept.clean()

    def _restore(self) -> int:
        folder = self.kept.folder
        now = _read_now(folder / _NOW)
        if other := [x for x in self.identity if now["identity"].get(x) != self.identity[x]]:
            raise LearnerError(
                f"folder = {str(folder)!r} is of a call with other {', '.join(other)}, or of "
                "another version of dpg; expected a folder that only this call uses: choose "
                "another folder, or delete it to start over"
            )
        found = load(folder / f"walk-{now['done']}.npz")
        trees = self._trees(found, now["there"])
        for name in self.TREES:
            setattr(self.back, name, trees.get(name))
        for name in self.ROWS:
            setattr(self.back, name, [self._row(found, name, t) for t in range(self.run.T)])
        self.back.shared = False
        self.kept.held = {(what, t) for what, t in now["kept"]}
        self.kept.sizes = {
            file.name: file.stat().st_size
            for what in ("state", "gradient")
            for file in folder.glob(f"{what}-*.npz")
        }
        return now["done"]

    def _trees(self, found: Mapping[str, Array], there: Iterable[str]) -> dict[str, Tree]:
        params, state = self.run.params, self.run.state
        likes = {"params": params, "trained": params, "adjoint": params, "by_initial": params}
        trees: dict[str, Tree] = {}
        for name in there:
            leaves = [found[f"{name}/{i}"] for i in range(_count(found, name))]
            if name == "value":
                trees[name] = jnp.asarray(leaves[0])
            elif name == "adjoint_state":
                trees[name] = [jnp.asarray(x) for x in leaves]
            else:
                flat, treedef = jax.tree.flatten(likes.get(name, state))
                trees[name] = jax.tree.unflatten(treedef, list(map(placed, leaves, flat)))
        return trees

    def _row(self, found: Mapping[str, Array], name: str, t: int) -> Any:
        count = _count(found, f"{name}/{t}")
        leaves = [jnp.asarray(found[f"{name}/{t}/{i}"]) for i in range(count)]
        if not leaves:
            return None
        if name == "hyper":  # jax sorts the keys of a dict
            return dict(zip(sorted(self.run.places.floats), leaves, strict=True))
        return leaves if name == "inputs" else leaves[0]


def identity(back: Any, schedule: Schedule) -> dict[str, str]:
    """What identifies a call: a digest of each argument, by name.

    The batches count by their shapes and by their first and last step. Functions count by what JAX
    traces for them: two that compute the same are the same. The microbatch does not count.
    """
    run, data = back.run, back.run.data
    parts = {
        **_functions(back),
        "params": run.params,
        "weights": data.weights,
        "index": data.index,
        "hyperparameters": sorted(run.values.items()),
        "batches": [data.shapes, run.T, data.at(0)[0], data.at(run.T - 1)[0]],
        "schedule": [str(action) for action in schedule.actions],
        "wrt": [str(x) for x in back.wanted[1:]],
        "version of JAX": [jax.__version__, str(jax.devices()[0].platform)],
    }
    return {name: _digest(part) for name, part in parts.items()}


def _functions(back: Any) -> dict[str, list]:
    """What the loss, the metric and the optimizer compute, derivatives included."""
    run, goal = back.run, back.wanted.metric
    state, batch = run.state, run.at(0)[0]

    def loss(params: Tree, arrays: Any, batch: Tree) -> tuple[Array, Any]:
        found = programs.assemble(run.loss.static, arrays)(params, batch)
        return (found[0] if isinstance(found, tuple) else found).sum(), found

    by_params = jax.value_and_grad(loss, has_aux=True)
    evaluate = programs.compile_metric(goal.static, initial=back.wanted.params)
    adjoint_state = programs.split(state)[0]
    return {
        "loss": [run.loss.arrays, *traced(by_params, run.params, run.loss.arrays, batch)],
        "metric": [goal.arrays, *traced(evaluate, goal.arrays, run.params, run.params)],
        "optimizer": [
            state,
            *traced(run.programs.pull, run.params, state, run.params, run.params, adjoint_state),
        ],
    }


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode())
        if isinstance(leaf, str | int):
            digest.update(str(leaf).encode())
            continue
        digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            digest.update(np.ascontiguousarray(_plain(leaf)).tobytes())
    return digest.hexdigest()


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an .npz file, whole or not at all."""
    plain = {name: _plain(x) for name, x in arrays.items()}
    # numpy's format does not know dtypes such as bfloat16: their bits are written.
    kinds = {name: str(x.dtype) for name, x in plain.items() if x.dtype.kind == "V"}
    bits = {
        name: x.view(f"u{x.dtype.itemsize}") if name in kinds else x for name, x in plain.items()
    }
    with _Whole(path) as partial, partial.open("wb") as file:
        np.savez(file, kinds=np.array(json.dumps(kinds)), **bits)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Raises:
        LearnerError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kinds = json.loads(str(file["kinds"]))
            arrays = {name: file[name] for name in file.files if name != "kinds"}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return {
        name: x.view(jnp.dtype(kinds[name])) if name in kinds else x for name, x in arrays.items()
    }


def _read_now(path: Path) -> dict[str, Any]:
    try:
        now = json.loads(path.read_text(encoding="utf-8"))
        return {name: now[name] for name in ("done", "kept", "there", "identity")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> LearnerError:
    return LearnerError(
        f"{path} cannot be read ({error}); expected a file of a call that was stopped: delete the "
        "folder to start over"
    )


def _delete_partial(folder: Path) -> None:
    """Delete what ended processes have not finished writing: a file may be as large as a state.

    A process that runs may still be writing its file. A call does not share its folder, but may
    have been started twice.
    """
    for file in folder.iterdir():
        found = _PARTIAL.fullmatch(file.name)
        if found and not _runs(int(found[1])):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether another process has this number, on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _like(x: Array) -> Array:
    """What `placed` needs of an array, without its values; a random key stays as it is."""
    if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding, weak_type=x.weak_type)


def placed(x: np.ndarray, like: jax.Array) -> jax.Array:
    """An array on the device, with the sharding of `like`, and with its random-key or weak type."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))
    if getattr(like, "weak_type", False) and x.ndim == 0:
        return jnp.asarray(x.item())
    if x.shape != like.shape:  # an adjoint of several metrics
        return jnp.asarray(x)
    return jax.device_put(x, getattr(like, "sharding", None))


def _plain(x: Array) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def _file(what: What, t: int) -> str:
    return f"{what}-{t}.npz"


def _count(found: Mapping[str, Array], name: str) -> int:
    return sum(key.rpartition("/")[0] == name for key in found)


class _Whole:
    """A temporary path to write to. It is renamed to the file's name when all is written."""

    def __init__(self, path: Path):
        self.path, self.partial = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)
