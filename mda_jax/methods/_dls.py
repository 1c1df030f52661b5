"""Directional least squares."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage


def dls(ridge: Number = 0.4, pull: Number = 0.6, scale: Number = 0.8) -> Stage:
    """Keep what each expert does along the input directions that it uses itself.

    Args:
      ridge: weight of the scaled sum against the experts, dimensionless, above 0.
      pull: what the sum of deltas is scaled by, dimensionless.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. For matrices and convolutions `[m, n]` the delta `X`
      that minimises
      `sum_t ||(X - D_t) G_t^(1/2)||^2 + mu ||X - pull sum_t D_t||^2`, with
      `G_t = D_t^T D_t / ||D_t||^2` and `mu = ridge k / n`: k Gram matrices and one
      Cholesky solve, no decomposition. All other leaves take the mean of the deltas.
      Scaling every delta scales the result.

    Raises:
      Nothing.

    Paper:
      Ours. The closed form of the objective of Cheng et al., Whoever Started the
      Interference Should End It (WUDI), 2025, https://arxiv.org/abs/2503.08099, with
      a ridge; or Jin et al., RegMean, 2022, https://arxiv.org/abs/2212.09849, with
      the Gram matrices of the deltas in place of those of data.
    """
    matrices = stage(least_squares, ridge=ridge, pull=pull)
    return spectral(matrices, scale)


def least_squares(
    d: Float[Array, "k m n"], *, ridge: Number, pull: Number
) -> Float[Array, "1 m n"]:
    """The minimiser of `dls`."""
    rest = jnp.asarray(pull, d.dtype) * p.total(d)
    return p.directional_least_squares(d, rest, ridge)
