"""Multi-SLERP: one step towards the mean of many deltas on a sphere."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Stage
from mda_jax.combine import stage


def multislerp(
    weights: p.Weights | None = None,
    *,
    average: Callable[..., Array] = p.weighted_mean,
) -> Stage:
    """Average the directions of the deltas on the sphere, and their lengths apart.

    Args:
      weights: share of each expert, dimensionless. None: all alike.
      average: `(rows [k, *d], weights=[k]) -> [1, *d]`: the weighted mean, or
        `primitives.weighted_sum` for weights that are not divided by their sum.

    Returns:
      A stage `[k, *d] -> [1, *d]`. From the average of the unit vectors of the deltas,
      made a unit vector again, it moves along the average of what they deviate from
      it, and gives the result the average length. Where the average of the unit
      vectors is 0 to rounding there is no such direction: the average of the deltas.
      Scaling every delta scales the result.

    Raises:
      ValueError: in `merge`, if there is not one weight per expert.

    Paper:
      None; the method of mergekit, https://github.com/arcee-ai/mergekit,
      "Multi-SLERP", one step of Karcher, Riemannian center of mass and mollifier
      smoothing, 1977, https://doi.org/10.1002/cpa.3160300502, with tangents that are
      plain projections.
      Differs: mergekit fails where the directions of three deltas or more cancel.
      Its `normalize_weights: false` is `average=primitives.weighted_sum`. Without a
      base model it averages weights: merge into a base of zeros.
    """
    shares = None if weights is None else p.per_expert(weights)
    return stage(barycentre, weights=shares, average=Partial(average))


def barycentre(
    d: Deltas, *, weights: Float[Array, "..."] | None, average: Partial
) -> Float[Array, " 1 *d"]:
    """The merged delta."""
    weights = jnp.ones(len(d), d.dtype) if weights is None else weights
    axes = p.whole(d)
    units = p.unit(d, axes)
    middle = average(units, weights=weights)
    directed = p.length(middle, axes) > jnp.finfo(d.dtype).eps
    middle = p.unit(middle, axes)
    along = (units * middle).sum(axes, keepdims=True)
    tangent = average(units - along * middle, weights=weights)
    far = p.length(tangent, axes)
    moved = jnp.cos(far) * middle + jnp.sinc(far / jnp.pi) * tangent
    size = average(p.length(d, axes), weights=weights)
    return jnp.where(directed, size * moved, average(d, weights=weights))
