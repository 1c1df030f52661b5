"""Multi-SLERP: one step towards the mean of many deltas on a sphere."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Stage
from mda_jax.combine import stage, survey, surveyed


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
    numbers = {"average": Partial(_averaged, Partial(average), shares)}
    surveys = (survey(f, **numbers) for f in (_squares, _towards_middle, _far))
    return surveyed(_settled, *surveys, **numbers)


def _averaged(
    average: Partial, weights: Float[Array, "..."] | None, rows: Deltas
) -> Float[Array, " 1 *d"]:
    weights = jnp.ones(len(rows), rows.dtype) if weights is None else weights
    return average(rows, weights=weights)


def _squares(d: Deltas, *, average: Partial) -> p.Each:
    """The squared lengths of the deltas."""
    del average
    return _over_all(d * d)


def _towards_middle(
    d: Deltas, squares: p.Each, *, average: Partial
) -> tuple[p.One, p.Each]:
    """The squared length of the average direction, and its products with all."""
    units = _units(d, squares)
    middle = average(units)
    return _over_all(middle * middle), _over_all(units * middle)


def _far(
    d: Deltas, squares: p.Each, towards: tuple[p.One, p.Each], *, average: Partial
) -> p.One:
    """The squared length of the tangent."""
    _, tangent = _middle_and_tangent(d, squares, towards, average=average)
    return _over_all(tangent * tangent)


def _settled(*found: Any, average: Partial) -> Stage:
    return stage(barycentre, found=found, average=average)


def barycentre(
    d: Deltas, *, found: tuple[Any, Any, Any], average: Partial
) -> Float[Array, " 1 *d"]:
    """The merged delta."""
    squares, towards, squared_far = found
    directed = p.root(towards[0]) > jnp.finfo(d.dtype).eps
    middle, tangent = _middle_and_tangent(d, squares, towards, average=average)
    far = p.root(squared_far)
    moved = jnp.cos(far) * middle + jnp.sinc(far / jnp.pi) * tangent
    return jnp.where(directed, average(p.root(squares)) * moved, average(d))


def _middle_and_tangent(
    d: Deltas, squares: p.Each, towards: tuple[p.One, p.Each], *, average: Partial
) -> tuple[Float[Array, " 1 *d"], Float[Array, " 1 *d"]]:
    """The direction of the average, and the average of what deviates from it."""
    size = p.or_one(p.root(towards[0]))
    units = _units(d, squares)
    middle = average(units) / size
    return middle, average(units - towards[1] / size * middle)


def _units(d: Deltas, squares: p.Each) -> Deltas:
    return d / p.or_one(p.root(squares))


def _over_all(x: Deltas) -> p.Each:
    return x.sum(p.whole(x), keepdims=True)
