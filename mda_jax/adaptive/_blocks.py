"""A merge, taken apart into what each expert adds to it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check, engine
from mda_jax._types import Stage, WholeModel
from mda_jax.adaptive._coefficients import combined, task_vectors


def blocks(
    base: Any, experts: Sequence[Any], method: Stage | WholeModel, **options: Any
) -> list[Any]:
    """What each expert adds to a merge: deltas for `adamerging` and `mda_am`.

    The derivative of the merge along the expert's own task vector. The result of a
    method that scales with the deltas is the sum of these derivatives (Euler), so
    coefficients of 1 give its merge.

    Args:
      base: parameters.
      experts: k trees like `base`.
      method: any of `mda_jax.methods`.
      options: as of `mda_jax.merge`.

    Returns:
      k trees like `base` in float32; 0 where a leaf is no float.

    Raises:
      ValueError: as `mda_jax.merge`.
    """
    base = jax.tree.map(_in_float32, base)
    deltas = task_vectors(base, experts)
    derivative = jax.jit(partial(_derivative, options))
    each = jnp.eye(len(deltas), dtype=jnp.float32)
    return [derivative(method, base, deltas, along) for along in each]


def _derivative(
    options: dict[str, Any],
    method: Stage | WholeModel,
    base: Any,
    deltas: list[Any],
    along: Float[Array, " k"],
) -> Any:
    """Of the merge, as the experts' weights move from 1 along `along`."""

    def merged(weights: Float[Array, " k"]) -> Any:
        each = zip(deltas, weights, strict=True)
        experts = [combined(base, [delta], weight[None]) for delta, weight in each]
        return engine.merge(base, experts, method, **options)

    _, slope = jax.jvp(merged, (jnp.ones_like(along),), (along,))
    return jax.tree.map(_or_zero, base, slope)


def _in_float32(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float32) if _check.is_merged(leaf) else leaf


def _or_zero(leaf: Any, slope: Any) -> Any:
    return slope if _check.is_merged(leaf) else jnp.zeros_like(leaf)
