"""Lengths, angles and interpolation of vectors, whatever counts as one vector."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mda_jax._types import Deltas, Number
from mda_jax.primitives.averages import mean


Axes: TypeAlias = tuple[int, ...]  # of deltas [k, *d]: those that run along a vector
Each: TypeAlias = Float[Array, " k *ones"]  # one number for each vector, broadcastable
Gram: TypeAlias = Float[Array, " k k *ones"]  # inner products of vectors
One: TypeAlias = Float[Array, " 1 *ones"]
Cosine: TypeAlias = Callable[[Gram], One]  # of angles, of two vectors or of all pairs


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


def or_one(lengths: Each) -> Each:
    """1 in place of 0: to divide by."""
    return jnp.where(lengths > 0, lengths, 1)


def unit(x: Deltas, axes: Axes) -> Deltas:
    """Each vector over its length; 0 stays 0."""
    return x / or_one(length(x, axes))


def gram(d: Deltas, axes: Axes) -> Gram:
    """Inner products of the vectors of all experts, with each other."""
    return jnp.stack([(d * row[None]).sum(axes, keepdims=True) for row in d])


def gram_across_rows(d: Deltas, axes: Axes) -> Gram | None:
    """As `gram`: a sum over rows; None where each vector lies within a row."""
    return gram(d, axes) if 1 in axes else None


def cosines(gram: Gram) -> Gram:
    """Of the angles between the vectors of all experts; 0 where one is 0."""
    lengths = or_one(_lengths(gram))
    return gram / (lengths[None] * lengths[:, None])  # exactly 1 for numbers


def cosine(gram: Gram) -> One:
    """Of the angle between two vectors; 0 where one is 0."""
    return cosines(gram)[:1, 1]


def cosine_or_one(gram: Gram) -> One:
    """Of the angle between two vectors; 1 where one is 0, and has no direction."""
    present = (_lengths(gram) > 0).all(0, keepdims=True)
    return jnp.where(present, cosine(gram), 1)


def angle(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """In radians, in [0, pi]; its gradient at both ends is 0."""
    inside = jnp.abs(cosine) < 1
    ends = jnp.where(cosine > 0, 0, jnp.pi).astype(cosine.dtype)
    return jnp.where(inside, jnp.arccos(jnp.where(inside, cosine, 0)), ends)


def mean_cosine(gram: Gram) -> One:
    """Mean of the cosines over all pairs of experts, of which there are two or more."""
    return mean(_of_pairs(gram))


def cosine_of_mean_angle(gram: Gram) -> One:
    """Cosine of the mean angle over all pairs of experts."""
    return jnp.cos(mean(angle(_of_pairs(gram))))


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


def _of_pairs(gram: Gram) -> Float[Array, " pairs *ones"]:
    i, j = np.triu_indices(len(gram), 1)
    return cosines(gram)[i, j]


def _lengths(gram: Gram) -> Each:
    i = np.arange(len(gram))
    return root(gram[i, i])
