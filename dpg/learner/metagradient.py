"""The metagradient: the derivative of a trained model's score with respect to example weights.

Training is theta_{t+1}, s_{t+1} = O(g_t, s_t, theta_t). Here g_t is the gradient of the step's loss
L_t = 1/B sum_i w_ti l_i(theta_t), and O is the optimizer, which updates parameters and its state.
The metric is M = Phi(theta_T, theta_0). dM / dw is computed backwards through time. Let a and b be
the adjoints of theta_{t+1} and s_{t+1}. The vector-Jacobian product of O at (a, b) gives the
adjoint lambda of g_t, the adjoint of s_t, and the direct part of the adjoint of theta_t. The rest
is

    adjoint of theta_t  = direct part + H_t lambda         (H_t the Hessian of L_t)
    dM / dw_ti          = 1/B <grad l_i(theta_t), lambda>

Both are tangents of one forward-over-reverse pass: the jvp of theta -> (grad L_t, l_1 ... l_B) in
direction lambda. Two things save work. The first step needs the second line alone, which is forward
mode of the losses; if it is the only step, its gradient and that forward mode share one forward
pass. And if the memory budget allows, theta -> (grad L_t, l_1 ... l_B) is linearized when g_t is
computed, and its matrix products are kept for the tangents.

The same walk gives other derivatives. The adjoint of the optimizer's state contains those with
respect to the hyper-parameters in that state. The adjoint of theta_0 is the derivative with respect
to the initial parameters. dM / dx_t, for a batch x_t, is the gradient of a scalar with respect to
x_t: of the derivative of L_t(theta_t, x_t) along lambda. One reverse-over-forward pass gives it
together with the two lines above.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner import checks, programs, vanished
from dpg.learner.backward import Backward, Wanted
from dpg.learner.errors import LearnerError, LearnerWarning
from dpg.learner.folder import Bookmark, OnDisk
from dpg.learner.kept import Kept
from dpg.learner.results import MetagradientResult, TrainResult
from dpg.learner.run import Loss, Run
from dpg.learner.schedule import Schedule
from dpg.learner.watch import Callback, Progress, Watch

Tree = Any  # any tree of arrays
Metric = Callable[[Tree, Tree], jax.Array]  # (params, initial params) -> [] or [K]


def train(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    index: Any = None,
    weights: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    microbatch: int | None = None,
    progress: Callback | None = None,
) -> TrainResult:
    """Plain training without the derivative. The result is that of `metagradient`, bit for bit.

    Arguments and errors are those of `metagradient`.
    """
    run = Run.check(
        per_example_loss,
        params,
        batches,
        optimizer,
        weights,
        microbatch,
        index=index,
        hyperparameters=hyperparameters,
    )
    # Copies, since every step overwrites them and the caller's parameters must not change.
    theta, state = jax.tree.map(jnp.copy, (run.params, run.state))
    losses: list[Any] = []
    for t in range(run.T):
        g, example_losses, _ = run.gradient(theta, t)
        theta, state = run.programs.apply_in_place(g, run.state_at(state, t), theta)
        losses.append(example_losses)
        run.check_losses(losses, t - 1)
        if progress is not None:
            progress(Progress((t + 1) / run.T, t + 1, 0, run.T))
    run.check_losses(losses, run.T - 1)
    return TrainResult(theta, *run.summary(losses))


def metagradient(
    per_example_loss: Loss,
    metric: Metric,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    index: Any = None,
    weights: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    wrt: str | Collection[str] = "weights",
    microbatch: int | None = None,
    memory: float | None = None,
    host_memory: bool = False,
    schedule: Schedule | None = None,
    progress: Callback | None = None,
    folder: str | Path | None = None,
) -> MetagradientResult:
    """Train on `batches`, and differentiate the metric with respect to every example's weight.

    Args:
        per_example_loss: (params, batch) -> [B] float, one loss per example, or [B, L], one per
            token. It may also return a pair: the losses, and booleans of the same shape that say
            which losses are own (no padding). The booleans must depend on the batch alone. A step's
            loss is the sum of weight times loss over the own losses, divided by their number. With
            `microbatch`, or empty places in the index, an example's loss must not depend on the
            other examples of its batch.
        metric: (params, initial params) -> [] float, higher is better; or [K], K metrics whose
            derivatives are computed in one walk back.
        params: any tree of floating-point arrays; not changed.
        batches: a tree of arrays [T, B, ...]: T steps of B examples. With `index` it is a dataset,
            a tree of arrays [N, ...]. An array is anything with a shape, a dtype and `[...]`
            (numpy, a memory map, an HDF5 dataset). One step is read at a time.
        optimizer: any optax transformation of gradients, state and parameters whose state is a
            tree of arrays. Optimizers that also read the loss (a line search, polyak_sgd) are
            refused.
        index: [T, B] integers, the dataset's rows in each step, or a list of T lists; -1 where a
            place is empty. An example may appear in many places. See `epoch_index`.
        weights: the point at which the derivative is taken, default ones: [T, B], or [N] with
            `index`. For a loss per token also [T, B, L] or [N, L].
        hyperparameters: by name, [T] values: the hyper-parameter of this name in the optimizer's
            state (`optax.inject_hyperparams`) is set to value t before step t's update.
        wrt: differentiate with respect to these, one name or several: "weights" (always included),
            "hyperparameters" (those in the optimizer's state, by their value at each step),
            "params" (the initial ones), "batches" (their floating-point arrays). The first two cost
            almost nothing. "params" and "batches" need the first step's Hessian-vector product too:
            8 matrix products per weight matrix instead of 3, or instead of 2 if T = 1. (A step of
            plain training takes 3.) "batches" costs about a twentieth more again, and keeps no
            tapes.
        microbatch: examples at a time inside a step; the result does not depend on it.
        memory: bytes for what is kept between the steps: states, gradients and, if the budget
            allows, tapes of matrix products, which make a step's derivative cheaper. The cheapest
            schedule within the budget is chosen (`dpg.learner.plans`). None keeps all states and
            gradients and no tape; math.inf keeps the tapes too. The first state counts like the
            others, though it takes no memory: it is made again. The result does not depend on it.
        host_memory: keep stored states in the host's memory instead of the device's.
        schedule: your own, such as `dpg.learner.plans.kary(T, k)`, in place of the chosen one.
        progress: called with a `Progress` after each step and after each step's derivative.
        folder: keep states and gradients as files in this folder. If the call is killed, repeat it:
            it goes on from there, with the same numbers. `memory` then counts bytes on this disk,
            and no tape is kept. Use a folder for one call only: one of another loss, metric,
            optimizer or other arguments is refused. After the call it stays, with small files, and
            the same call then returns its result at once.

    Programs are compiled once for equal `per_example_loss`, `metric` and `optimizer`: the same
    objects, or functions of the same code that read equal constants, such as two calls of
    `optax.adam(1e-3)`. A callable that carries arrays should be a `jax.tree_util.Partial`. Its
    arrays are then arguments instead of constants: other values need no new compilation.

    Returns:
        A `MetagradientResult`.

    Raises:
        LearnerError (a ValueError): input of a wrong shape or kind; an index beyond the dataset; a
            budget below one state; too little free space for `folder`, or files of another call in
            it; an optimizer that cannot be applied or differentiated; an optimizer that uses only
            the signs of gradients (lion, sign_sgd), since every metagradient is then 0.
        NotFiniteError (a LearnerError): a loss, the metric or a metagradient is not finite.

    Warns:
        LearnerWarning: 16-bit parameters; or every metagradient is 0 because the metric or the
            losses do not change with the parameters at this point.
    """
    run = Run.check(
        per_example_loss,
        params,
        batches,
        optimizer,
        weights,
        microbatch,
        index=index,
        hyperparameters=hyperparameters,
        derivative=True,
    )
    several = checks.check_metric(metric, run.params)
    goal = programs.Function.take_apart(metric)
    run, chosen = _chosen(wrt, run)
    wanted = Wanted(goal, several, **chosen)
    if half := checks.half_precision(run.params):
        warnings.warn(half, LearnerWarning, stacklevel=2)

    if schedule is None:
        schedule = run.plan(memory, tapes=_may_tape(wanted.batches, folder)).schedule
    elif schedule.steps != run.T:
        raise LearnerError(f"the schedule is for {schedule.steps} steps; the batches hold {run.T}")
    if folder is not None and (host_memory or schedule.tapes):
        raise LearnerError(
            "folder is given with "
            + ("host_memory=True; expected one of the two" if host_memory else
               f"a schedule of {schedule.tapes} tapes, which are not kept in files; expected a "
               "schedule without tapes")
        )  # fmt: skip
    kept = Kept(run.params, host_memory) if folder is None else OnDisk(Path(folder), run)
    back = Backward(run, wanted, kept)
    _walk(back, schedule, Watch(schedule, progress))
    result = _gathered(back)
    if all_zero := _why_all_zero(run, goal, result):
        warnings.warn(all_zero, LearnerWarning, stacklevel=2)
    return result


def _walk(back: Backward, schedule: Schedule, watch: Watch) -> None:
    """Carry out a schedule. If a folder holds the state of a stopped call, go on from there."""
    bookmark = Bookmark(back, schedule, back.kept) if isinstance(back.kept, OnDisk) else None
    done = bookmark.open() if bookmark else 0
    for number in range(done):
        watch.count(number)

    def after(number: int) -> None:
        watch.count(number)
        watch.tell(number, back.rows)
        if bookmark:
            bookmark.after(number)

    back.walk(schedule, after, done)


def explain(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    index: Any = None,
    wrt: str | Collection[str] = "weights",
    microbatch: int | None = None,
    memory: float | None = None,
    folder: str | Path | None = None,
) -> str:
    """What `metagradient` would keep, compute and cost with this budget, as text. Trains nothing.

    Arguments and errors are those of `metagradient`. Nothing is read or written in `folder`.
    """
    run = Run.check(per_example_loss, params, batches, optimizer, None, microbatch, index=index)
    run, chosen = _chosen(wrt, run)
    schedule, sizes = run.plan(memory, tapes=_may_tape(chosen["batches"], folder))
    return schedule.describe(*sizes)


def _may_tape(by_batches: bool, folder: str | Path | None) -> bool:
    """Whether a call may keep tapes: files do not hold them, and "batches" cannot use them."""
    return not by_batches and folder is None


def _chosen(wrt: str | Collection[str], run: Run) -> tuple[Run, dict[str, bool]]:
    """The run as `wrt` needs it, and what `wrt` names besides the weights, as booleans by name.

    Raises:
        LearnerError: a name that is unknown, or that these arguments have no derivative for.
    """
    known = ("weights", "hyperparameters", "params", "batches")
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in names:
        if name not in known:
            raise LearnerError(f"wrt has {name!r}; expected names of {', '.join(known)}")
    if "hyperparameters" in names:
        run.places.check()
    if "batches" in names and not programs.split(run.data.arrays)[0]:
        raise LearnerError(
            "wrt has 'batches', which hold no floating-point arrays; expected some, such as soft "
            "labels or embeddings"
        )
    chosen = {name: name in names for name in known[1:]}
    if chosen["params"] or chosen["batches"]:
        run = run._replace(one_tape=False, curved=True)
    return run, chosen


def _gathered(back: Backward) -> MetagradientResult:
    """The result of a finished walk."""
    run, wanted, data = back.run, back.wanted, back.run.data
    lead = 0 if wanted.several is None else 1

    def by_data(places: jax.Array) -> jax.Array:
        return places if data.index is None else jnp.asarray(data.by_example(places, lead))

    def stacked(rows: list[Any]) -> jax.Array:
        return by_data(jnp.stack(rows, axis=lead))

    places = jnp.stack(back.rows, axis=lead)
    losses, example_losses = run.summary(back.losses)
    return MetagradientResult(
        back.value,
        by_data(places),
        back.trained,
        losses,
        example_losses,
        places_grad=None if data.index is None else places,
        params_grad=back.by_params() if wanted.params else None,
        hyperparameters_grad=_stacked(back.hyper, lead) if wanted.hyperparameters else None,
        batches_grad=_like_data(data.arrays, stacked, back.inputs) if wanted.batches else None,
    )


def _stacked(steps: list[dict[str, jax.Array]], lead: int) -> dict[str, jax.Array]:
    return {name: jnp.stack([step[name] for step in steps], axis=lead) for name in steps[0]}


def _like_data(arrays: Tree, by_data: Callable, steps: list[list]) -> Tree:
    leaves, treedef = jax.tree.flatten(arrays)
    found = (by_data(list(rows)) for rows in zip(*steps, strict=True))
    like = [next(found) if programs.is_float(x) else None for x in leaves]
    return jax.tree.unflatten(treedef, like)


def _why_all_zero(run: Run, metric: programs.Function, result: MetagradientResult) -> str | None:
    """Why every metagradient is 0, as text; None if any of them is not 0.

    With several metrics, the text is about the first one whose metagradients are all 0.

    Raises:
        LearnerError: the optimizer is the reason.
    """
    rows = np.asarray(result.weights_grad).reshape(*result.metric.shape, -1)
    flat = np.argwhere(~rows.any(axis=-1))
    if not len(flat):
        return None
    evaluate = programs.compile_metric(metric.static)
    _, by_params = evaluate(metric.arrays, result.params, run.params)
    by_params = jax.tree.map(lambda x: x[tuple(flat[0])], by_params)
    why = vanished.reason(run, by_params)
    return f"metric {flat[0][0]} of {rows.shape[0]}: {why}" if result.metric.ndim else why
