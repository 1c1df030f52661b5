"""Least squares in the input directions that the experts use."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax._types import Number
from mda_jax.linalg import solve_positive


def input_grams(d: Float[Array, "k m n"]) -> Float[Array, "k n n"]:
    """`D^T D` of each expert over its trace: the input directions it uses; 0 for 0."""
    sizes = (d * d).sum((1, 2), keepdims=True)
    shares = d / jnp.where(sizes > 0, sizes, 1)
    return jnp.einsum("kmi,kmj->kij", shares, d, precision="highest")


def directional_least_squares(
    d: Float[Array, "k m n"], rest: Float[Array, "1 m n"], ridge: Number
) -> Float[Array, "1 m n"]:
    """What each expert does along its own input directions; elsewhere, the rest.

    Args:
      d: the experts' deltas `D_t`.
      rest: what the result goes to where few experts use a direction.
      ridge: weight of `rest` against the experts, dimensionless, above 0.

    Returns:
      `[1, m, n]`: the minimiser `X` of
      `sum_t ||(X - D_t) G_t^(1/2)||^2 + mu ||X - rest||^2`, with
      `G_t = D_t^T D_t / ||D_t||^2` and `mu = ridge k / n`. An expert that changes
      nothing has no directions.
    """
    k, _, n = d.shape
    mu = jnp.asarray(ridge, d.dtype) * k / n
    used = input_grams(d)
    kept = jnp.einsum("kmi,kij->mj", d, used, precision="highest")
    gram = used.sum(0) + mu * jnp.eye(n, dtype=d.dtype)
    return solve_positive(gram, (kept + mu * rest[0]).T).T[None]
