"""One number for each delta, shared by the whole model or by each of its leaves."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check, trees


Coefficients: TypeAlias = Any  # a prefix of the parameter tree, with leaves [k]


def task_wise(k: int, value: float = 0.3) -> Float[Array, " k"]:
    """The same coefficient for all leaves of a task's delta, at first `value`."""
    return jnp.full(k, value, jnp.float32)


def layer_wise(base: Any, k: int, value: float = 0.3) -> Coefficients:
    """A coefficient for each leaf of each task's delta, at first `value`."""
    return jax.tree.map(lambda leaf: jnp.full(k, value, jnp.float32), base)


def task_vectors(base: Any, experts: Sequence[Any]) -> list[Any]:
    """`expert - base` for each expert; 0 where a leaf is no float.

    Raises:
      ValueError: an expert has other names or shapes than the base.
    """
    leaves = trees.named(base)
    for i, expert in enumerate(experts):
        _check.same_leaves("task_vectors", f"experts[{i}]", leaves, trees.named(expert))
    return [jax.tree.map(_difference, expert, base) for expert in experts]


def combined(base: Any, deltas: Sequence[Any], coefficients: Coefficients) -> Any:
    """`base + sum_t coefficients[t] * deltas[t]`, leaf by leaf.

    Args:
      base: parameters.
      deltas: k trees like `base`: task vectors, or the parts of any merge.
      coefficients: from `task_wise` or `layer_wise`; any prefix of `base` whose leaves
        have shape `[k]`.

    Returns:
      A tree like `base`, in its dtypes.
    """
    each = jax.tree.broadcast(coefficients, base)
    return jax.tree.map(_combined, base, each, *deltas)


def _difference(expert: Any, base: Any) -> Any:
    if not _check.is_merged(base):
        return jnp.zeros_like(base)
    return jnp.asarray(expert, jnp.float32) - jnp.asarray(base, jnp.float32)


def _combined(base: Any, each: Float[Array, " k"], *deltas: Any) -> Any:
    if not _check.is_merged(base):
        return base
    change = sum(each[t] * delta for t, delta in enumerate(deltas))
    return (jnp.asarray(base, jnp.float32) + change).astype(base.dtype)
