"""Random drops, and rules that scale up what they leave."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from mda_jax import _check
from mda_jax._types import Deltas, Number
from mda_jax.primitives.averages import Weights


Density: TypeAlias = Number | Float[Array, "..."]  # for all, per expert, per entry


def drop(
    d: Deltas, *, key: Key[Array, ""], density: Density, ids: Weights | None = None
) -> Deltas:
    """Keep every entry with probability `density`, independently of all others.

    Args:
      d: the experts' deltas.
      key: the PRNG key of the weight.
      density: probability in (0, 1], to within `2**-23`; one number, `[k]` with one per
        expert, or `[k, *d]` with one per entry.
      ids: integers, one per expert. Who keeps its id keeps its draws, wherever it
        stands and whoever else is merged. None: 0..k-1.

    Returns:
      The deltas, not rescaled, with entries of 0 in place of the dropped ones.
    """
    ids = jnp.arange(len(d)) if ids is None else jnp.asarray(ids)
    _check.one_per_expert("drop", len(d), ids=ids)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    # Drawn in float32 always, so that a merge in float64 drops the same entries.
    draws = jax.vmap(lambda key: jax.random.uniform(key, d.shape[1:], "float32"))(keys)
    return jnp.where(draws < _spread(density, d).astype(draws.dtype), d, 0)


def drop_by_rank(
    d: Deltas,
    *,
    key: Key[Array, ""],
    density: Number | Float[Array, " k"],
    epsilon: Number | Float[Array, " k"],
    ids: Weights | None = None,
) -> Deltas:
    """Keep every entry with the probability `rank_density`, as `drop` does."""
    probability = rank_density(d, density=density, epsilon=epsilon)
    return drop(d, key=key, density=probability, ids=ids)


def rank_density(
    d: Deltas,
    *,
    density: Number | Float[Array, " k"],
    epsilon: Number | Float[Array, " k"],
) -> Deltas:
    """Probabilities that rise evenly with the rank of the magnitude in its row.

    Args:
      d: the experts' deltas. A row is a vector, a row of a matrix, or all that shares
        the first index of an array of more axes.
      density: mean of a row's probabilities; one number, or one per expert.
      epsilon: half their spread; one number, or one per expert.

    Returns:
      From `density - epsilon` for the smallest entry to `density + epsilon` for the
      largest, clipped to [0, 1]; `density` where a row is one entry; 1 where `density`
      is 1 or more. Of equal magnitudes the earlier counts as the larger.
    """
    rows = d.reshape(len(d), d.shape[1] if d.ndim > 2 else 1, -1)
    n = rows.shape[2]
    slope = jnp.linspace(1, -1, n, dtype=d.dtype) if n > 1 else jnp.zeros(1, d.dtype)
    falling = jnp.broadcast_to(slope, rows.shape)
    order = jnp.argsort(-jnp.abs(rows))
    heights = jnp.put_along_axis(falling, order, falling, axis=2, inplace=False)
    density, epsilon = _spread(density, d), _spread(epsilon, d)
    sloped = jnp.clip(density + epsilon * heights.reshape(d.shape), 0, 1)
    return jnp.where(density >= 1, jnp.ones_like(d), sloped)


def by_probability(kept: Deltas, d: Deltas, density: Density) -> Deltas:
    """Divide every entry by the probability to keep it: right on average.

    Args:
      kept: what a drop left of `d`.
      d: the experts' deltas.
      density: the probabilities, as `drop` takes them.
    """
    chance = _spread(density, d)
    return kept / jnp.where(chance > 0, chance, 1)


def by_l1_norm(kept: Deltas, d: Deltas, density: Density) -> Deltas:
    """Give each expert its L1 norm back, unless either norm is below 1e-7."""
    del density
    axes = tuple(range(1, d.ndim))
    whole, left = (jnp.abs(x).sum(axes, keepdims=True) for x in (d, kept))
    tiny = jnp.minimum(whole, left) < 1e-7
    return kept * jnp.where(tiny, 1, whole / jnp.where(tiny, 1, left))


def as_kept(kept: Deltas, d: Deltas, density: Density) -> Deltas:
    """Leave the rest as it is."""
    del d, density
    return kept


def _spread(numbers: ArrayLike, d: Deltas) -> Float[Array, "..."]:
    """One number, one per expert, or one per entry, lined up with the deltas."""
    x = jnp.asarray(numbers, d.dtype)
    return x.reshape(*x.shape, *[1] * (d.ndim - x.ndim))
