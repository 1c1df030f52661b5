"""The Karcher mean of the experts' weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import Fixed, sided, sided_survey, surveyed


Found = tuple[p.Gram, Int[Array, ""]]


def karcher(rounds: int = 10, tolerance: Number = 1e-5) -> Stage:
    """Average the directions of the experts' weights on the sphere.

    Args:
      rounds: steps of the iteration at most, 1 or more.
      tolerance: a step shorter than this, in radians, ends the iteration.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Each expert's weight is one vector, seen from 0.
      The merged weight points to the mean of their directions, the point on the
      sphere with the least squared angles to them, and has their mean length. A
      weight that is 0 counts in the length only. Where the mean of the directions is
      0, the iteration starts at the first of them and the result depends on the
      order of the experts.

    Raises:
      ValueError: `rounds` is below 1.

    Paper:
      Karcher, Riemannian center of mass and mollifier smoothing, 1977,
      https://doi.org/10.1002/cpa.3160300502.
      Differs: on the unit sphere, for directions; lengths are averaged. At most
      `rounds` steps of gradient descent, as in mergekit, which also leaves weights
      shorter than `tolerance` out.
    """
    _check.at_least_one("karcher", rounds=rounds)
    numbers = {"rounds": Fixed(rounds), "tolerance": tolerance}
    return surveyed(_settled, sided_survey(_found), **numbers)


def _found(d: Deltas, side: Side) -> Found:
    """Inner products of the experts' weights, and how many entries change."""
    weights = side.base.astype(d.dtype)[None] + d
    return p.gram(weights, p.whole(d)), jnp.count_nonzero(d)


def _settled(found: Found, *, rounds: Fixed, tolerance: Number) -> Stage:
    gram, changes = found
    cosines = p.cosines(gram).reshape(len(gram), -1)
    lengths = p.root(jnp.diagonal(gram.reshape(cosines.shape)))
    mean = mean_direction(cosines, rounds.value, jnp.asarray(tolerance, gram.dtype))
    shares = lengths.mean() * mean / jnp.where(lengths > 0, lengths, 1)
    return sided(to_the_mean, shares=shares, changed=changes > 0)


def to_the_mean(
    d: Deltas, side: Side, *, shares: Float[Array, " k"], changed: Bool[Array, ""]
) -> Float[Array, " 1 *d"]:
    """What to add to the base, from the shares of the experts' weights in the mean."""
    base = side.base.astype(d.dtype)[None]
    change = p.weighted_sum(d, weights=shares) + (shares.sum() - 1) * base
    return jnp.where(changed, change, 0)


def mean_direction(
    cosines: Float[Array, "k k"], rounds: int, tolerance: Float[Array, ""]
) -> Float[Array, " k"]:
    """The Karcher mean of unit vectors, as the coefficients of their sum.

    It lies in the span of the vectors, so the cosines between them will do.
    """

    def products(c: Array) -> Array:
        return (cosines * c[None]).sum(1)

    def size(c: Array) -> Array:
        return p.root((c * products(c)).sum())

    def normalised(c: Array) -> Array:
        return c / jnp.where(size(c) > 0, size(c), 1)

    def step(_: Array, c: Array) -> Array:
        towards = products(c)
        pull = shares * _arc_over_sine(towards)
        tangent = pull - (pull * towards).sum() * c
        far = size(tangent)
        moved = jnp.cos(far) * c + jnp.sinc(far / jnp.pi) * tangent
        return jnp.where(far < tolerance, c, normalised(moved))

    present = (jnp.diagonal(cosines) > 0).astype(cosines.dtype)
    shares = present / jnp.maximum(present.sum(), 1)
    first = jax.nn.one_hot(present.argmax(), len(present), dtype=cosines.dtype)
    start = jnp.where(size(shares) < tolerance, first, normalised(shares))
    return jax.lax.fori_loop(0, rounds, step, start)


def _arc_over_sine(cosine: Float[Array, " k"]) -> Float[Array, " k"]:
    sine = p.root(1 - cosine**2)
    return jnp.where(sine > 0, p.angle(cosine) / jnp.where(sine > 0, sine, 1), 1)
