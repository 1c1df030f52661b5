"""MagMax."""

from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Stage, Weight
from mda_jax.combine import chain, entrywise


def magmax(scale: Number = 0.5) -> Stage:
    """Take every entry from the expert that changed it most.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Among equal magnitudes the later expert wins: where
      their signs differ, the result depends on the order of the experts. Scaling every
      delta scales the result.

    Raises:
      Nothing.

    Paper:
      Marczak et al., MagMax, 2024, https://arxiv.org/abs/2407.06322, section 4.
      Differs: nothing. The paper leaves ties open; they are resolved as in
      fusion-bench.
    """
    return chain(entrywise(largest_entry), entrywise(p.scaled, by=scale))


def largest_entry(d: Deltas) -> Float[Array, " 1 *d"]:
    """The entry of the largest magnitude; of equal ones that of the later expert."""
    return reduce(_larger, jnp.unstack(d))[None]


def _larger(x: Weight, y: Weight) -> Weight:
    return jnp.where(jnp.abs(y) >= jnp.abs(x), y, x)
