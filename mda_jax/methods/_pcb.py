"""PCB-Merging: parameter competition balancing."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Stage, WholeModel
from mda_jax.combine import stage, survey, whole_model


Bounds = Float32[Array, "k 2"]
Lower = tuple[p.Count, Float[Array, "k 2 b"]]


def pcb(
    density: Number = 0.1,
    clip: Number = 1e-4,
    scale: Number = 1.2,
    weights: p.Weights | None = None,
) -> WholeModel:
    """Score each entry by its size and its agreement; average by the best scores.

    Args:
      density: fraction of all entries of the model that score, per expert, in (0, 1].
      clip: fraction of the smallest, and of the largest, magnitudes of an expert that
        are clipped, in [0, 1/2].
      scale: multiplier of the merged delta, dimensionless.
      weights: one more multiplier per expert, dimensionless. None: 1 for all.

    Returns:
      A `WholeModel` of four surveys and a stage `[k, *d] -> [1, *d]`. With `a_t` the
      clipped magnitudes of an expert and `u` for scaling to [0, 1] over the model, an
      entry scores `exp(k u(a_t)^2) tanh(d_t sum_j d_j)`. Scores below the `1 - density`
      quantile of the expert are raised to it, and `s_t = u(score_t)`. The entry merges
      to `scale sum_t weights_t sign(d_t) a_t s_t / sum_t s_t`.

    Raises:
      ValueError: `density` or `clip` is out of range; in `merge`, if there is not one
        weight per expert.

    Paper:
      Du et al., Parameter Competition Balancing for Model Merging, 2024,
      https://arxiv.org/abs/2410.02396, section 3, as in the authors' released file.
      Differs: an expert whose scores are all equal has no share; where the released
      file divides by 0. Quantiles are in float32, their places to within `n * 2**-24`
      of `n` entries, and integer buffers are not among these. The authors search for
      `weights`; their scripts for vision and language compare the experts in other
      ways, and clip 0.01.
    """
    _check.fraction("pcb", density=density)
    _check.within("pcb", 0.0, 0.5, clip=clip)
    each = {} if weights is None else {"weights": p.per_expert(weights)}
    return whole_model(
        _settled,
        survey(_upper),
        survey(_lower, clip=clip),
        survey(_upper_scores, clip=clip),
        survey(_lower_scores, clip=clip, density=density),
        clip=clip,
        density=density,
        scale=scale,
        **each,
    )


def _upper(d: Deltas) -> p.Count:
    return p.upper_counts(jnp.abs(d))


def _lower(d: Deltas, upper: p.Count, *, clip: Number) -> Lower:
    return _lower_of(jnp.abs(d), upper, _ends(upper, clip))


def _lower_of(x: Deltas, upper: p.Count, places: Float32[Array, "2"]) -> Lower:
    return p.lower_counts(x, upper, places), p.lower_sums(x, upper, places)


def _upper_scores(d: Deltas, upper: p.Count, lower: Lower, *, clip: Number) -> p.Count:
    return p.upper_counts(_scores(d, _sizes(upper, lower, clip)))


def _lower_scores(
    d: Deltas,
    upper: p.Count,
    lower: Lower,
    upper_scores: p.Count,
    *,
    clip: Number,
    density: Number,
) -> Lower:
    scores = _scores(d, _sizes(upper, lower, clip))
    return _lower_of(scores, upper_scores, _best(upper, density))


def _settled(
    upper: p.Count,
    lower: Lower,
    upper_scores: p.Count,
    lower_scores: Lower,
    *,
    clip: Number,
    density: Number,
    **numbers: Any,
) -> Stage:
    return stage(
        _balanced,
        sizes=_sizes(upper, lower, clip),
        scores=_bounds(upper_scores, lower_scores, _best(upper, density)),
        **numbers,
    )


def _ends(upper: p.Count, clip: Number) -> Float32[Array, "2"]:
    """Places of the magnitudes that the smaller and the larger ones are clipped to."""
    n = p.entries(upper)
    clip = jnp.asarray(clip, n.dtype)
    return jnp.stack([n * clip, n * (1 - clip) - 1])


def _best(upper: p.Count, density: Number) -> Float32[Array, "2"]:
    """Places of the least and of the largest score that count."""
    n = p.entries(upper)
    return jnp.stack(
        [n * (1 - jnp.asarray(density, n.dtype)), jnp.full_like(n, jnp.inf)]
    )


def _sizes(upper: p.Count, lower: Lower, clip: Number) -> Bounds:
    return _bounds(upper, lower, _ends(upper, clip))


def _bounds(upper: p.Count, lower: Lower, places: Float32[Array, "2"]) -> Bounds:
    counts, sums = lower
    return p.order_statistics(upper, counts, places, sums)


def _balanced(
    d: Deltas,
    *,
    sizes: Bounds,
    scores: Bounds,
    scale: Number,
    weights: Float[Array, "..."] | None = None,
) -> Float[Array, " 1 *d"]:
    low, high = _columns(sizes, d)
    shares = _unit(_scores(d, sizes), scores)
    rows = jnp.sign(d) * jnp.clip(jnp.abs(d), low, high) * shares
    if weights is not None:
        rows = p.weighted(rows, weights=weights)
    return p.scaled(p.total(rows), by=scale) / jnp.maximum(p.total(shares), 1e-12)


def _scores(d: Deltas, sizes: Bounds) -> Deltas:
    within = jnp.exp(len(d) * _unit(jnp.abs(d), sizes) ** 2)
    return within * jnp.tanh(d * p.total(d))


def _unit(x: Deltas, bounds: Bounds) -> Deltas:
    """Clipped to the bounds, and these brought to 0 and 1; 0 where they are equal."""
    low, high = _columns(bounds, x)
    apart = high - low > 0
    span = jnp.where(apart, high - low, 1)
    size = jax.lax.stop_gradient(span)  # the square of a small one is 0
    share = (jnp.clip(x, low, high) - low) / size / (span / size)
    return jnp.where(apart, share, 0)


def _columns(bounds: Bounds, d: Deltas) -> Float[Array, "2 k *ones"]:
    return bounds.T.reshape(2, len(d), *[1] * (d.ndim - 1)).astype(d.dtype)
