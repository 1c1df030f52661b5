"""The loop of every adaptive method: one jitted step for all tasks."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax


Loss = Callable[[Any, Any, Any, Any], tuple[jax.Array, Any]]
Watch = Callable[[int, float], None]
_ADAM = optax.adam(1e-3)


class Descent(NamedTuple):
    """Where a descent stands; give it back to go on from there.

    Attributes:
      params: the merged parameters.
      trained: the coefficients, and what else is learned with them.
      memory: the optimiser's state.
      carried: what passes from batch to batch, such as running class means.
      losses: of every step so far.
    """

    params: Any
    trained: Any
    memory: Any
    carried: Any
    losses: tuple[float, ...]


def descend(
    loss: Loss,
    fixed: Any,
    merged: Callable[[Any], Any],
    start: Descent | tuple[Any, Any],
    batches: Iterable[Any],
    *,
    optimiser: optax.GradientTransformation | None,
    patience: int | None,
    watch: Watch,
) -> Descent:
    """Lower a loss, one step a batch.

    Args:
      loss: `(fixed, trained, carried, batch) -> (value, carried)`; hashable. A second
        descent with an equal loss and the same optimiser does not compile again.
      fixed: arrays that the loss needs and nobody changes.
      merged: `trained -> parameters`, for the result.
      start: a descent to go on with, or what is trained and carried at first.
      batches: one for each step.
      optimiser: any of optax; None is Adam at 1e-3.
      patience: stop when the mean loss of so many steps is not below that of as many
        before; None never stops early.
      watch: called with the number of steps done and the loss.

    Returns:
      The descent after the last step.
    """
    optimiser = optimiser or _ADAM
    losses: list[float] = []
    if isinstance(start, Descent):
        _, trained, memory, carried, before = start
        losses += before
    else:
        trained, carried = jax.tree.map(_of_strong_type, start)
        memory = optimiser.init(trained)
    for batch in batches:
        trained, memory, carried, value = _step(
            loss, optimiser, fixed, trained, memory, carried, batch
        )
        losses.append(float(value))
        watch(len(losses), losses[-1])
        if patience is not None and _stalled(losses, patience):
            break
    return Descent(merged(trained), trained, memory, carried, tuple(losses))


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    fixed: Any,
    trained: Any,
    memory: Any,
    carried: Any,
    batch: Any,
) -> tuple[Any, Any, Any, jax.Array]:
    slope = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (value, carried), gradient = slope(fixed, trained, carried, batch)
    with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
        updates, memory = optimiser.update(gradient, memory, trained)
        trained = optax.apply_updates(trained, updates)
    return trained, memory, carried, value


def _of_strong_type(x: jax.Array) -> jax.Array:
    """As the step returns it, so that the second step does not compile again."""
    return jax.lax.convert_element_type(x, x.dtype)


def _stalled(losses: list[float], patience: int) -> bool:
    if len(losses) < 2 * patience:
        return False
    before, after = np.reshape(losses[-2 * patience :], (2, patience)).mean(1)
    return bool(after >= before)
