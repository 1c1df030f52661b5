"""Lengths, angles and interpolation of vectors, whatever counts as one vector."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mda_jax._types import Deltas, Number, Rows
from mda_jax.primitives.averages import mean


Axes: TypeAlias = tuple[int, ...]  # of deltas [k, *d]: those that run along a vector
Each: TypeAlias = Float[Array, " k *ones"]  # one number for each vector, broadcastable
Cosine: TypeAlias = Callable[[Deltas, Rows, Axes], Each]


def whole(d: Deltas) -> Axes:
    """The whole weight is one vector."""
    return tuple(range(1, d.ndim))


def rows(d: Deltas) -> Axes:
    """Vectors run along the last axis: the weights of one output."""
    return whole(d)[-1:]


def columns(d: Deltas) -> Axes:
    """Vectors run along the first axis of the weight: the weights of one input."""
    return whole(d)[:1]


def root(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The square root; 0 at 0 and below, with gradient 0 there."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def length(x: Deltas, axes: Axes) -> Each:
    """The 2-norm of each vector; its gradient at 0 is 0."""
    return root((x * x).sum(axes, keepdims=True))


def unit(x: Deltas, axes: Axes) -> Deltas:
    """Each vector over its length; 0 stays 0."""
    norm = length(x, axes)
    return x / jnp.where(norm > 0, norm, 1)


def cosine(x: Deltas, y: Rows, axes: Axes) -> Each:
    """Of the angle between two vectors; 0 where one is 0."""
    return (unit(x, axes) * unit(y, axes)).sum(axes, keepdims=True)


def cosine_or_one(x: Deltas, y: Rows, axes: Axes) -> Each:
    """Of the angle between two vectors; 1 where one is 0, and has no direction."""
    present = (length(x, axes) > 0) & (length(y, axes) > 0)
    return jnp.where(present, cosine(x, y, axes), 1)


def cosines(d: Deltas, axes: Axes) -> Float[Array, " k k *ones"]:
    """Of the angles between the vectors of all experts; 0 where one is 0."""
    return jnp.stack([cosine(d, row[None], axes) for row in d])


def angle(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """In radians, in [0, pi]; its gradient at both ends is 0."""
    inside = jnp.abs(cosine) < 1
    ends = jnp.where(cosine > 0, 0, jnp.pi).astype(cosine.dtype)
    return jnp.where(inside, jnp.arccos(jnp.where(inside, cosine, 0)), ends)


def mean_cosine(d: Deltas, axes: Axes) -> Float[Array, " 1 *ones"]:
    """Mean of the cosines over all pairs of experts, of which there are two or more."""
    return mean(_of_pairs(d, axes))


def cosine_of_mean_angle(d: Deltas, axes: Axes) -> Float[Array, " 1 *ones"]:
    """Cosine of the mean angle over all pairs of experts."""
    return jnp.cos(mean(angle(_of_pairs(d, axes))))


def slerp_shares(cosine: Each, t: Number, straight: float) -> tuple[Each, Each]:
    """What two vectors contribute to their spherical interpolation.

    Args:
      cosine: of the angle `w` between them.
      t: 0 is the first vector, 1 the second.
      straight: where the magnitude of the cosine is above it, interpolate linearly.

    Returns:
      `sin((1 - t) w) / sin(w)` and `sin(t w) / sin(w)`, or `1 - t` and `t`.
    """
    bent = jnp.abs(cosine) <= straight
    between = jnp.arccos(jnp.where(bent, cosine, 0))
    t = jnp.asarray(t, cosine.dtype)

    def share(t: Array) -> Array:
        return jnp.where(bent, jnp.sin(t * between) / jnp.sin(between), t)

    return share(1 - t), share(t)


def _of_pairs(d: Deltas, axes: Axes) -> Float[Array, " pairs *ones"]:
    i, j = np.triu_indices(len(d), 1)
    return cosines(d, axes)[i, j]
