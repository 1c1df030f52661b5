"""Task arithmetic in the trust region, without data."""

from functools import reduce
from itertools import accumulate

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Stage, WholeModel
from mda_jax.combine import chain, stage, survey, whole_model


Row = Float[Array, " 1 *d"]


def tatr(quantile: Number = 0.99, scale: Number = 0.3) -> WholeModel:
    """Add the deltas, but for the entries where the experts conflict most.

    Args:
      quantile: fraction of all entries of the model that is merged, in (0, 1].
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A `WholeModel` of two surveys and a stage `[k, *d] -> [1, *d]`. The conflict of an
      entry is `sum_{i != j} |d_i| |d_j|`; merged are the entries whose conflict is
      below that of place `int(quantile * n)` in ascending order, counted from 0, and
      those without any. Scaling every delta scales the result.

    Raises:
      ValueError: `quantile` is outside (0, 1].

    Paper:
      Sun et al., Task Arithmetic in Trust Region, 2025,
      https://openreview.net/forum?id=q3ztjJRQuJ, the zero-shot form: the magnitude of
      the delta stands for that of the gradient.
      Differs: entries without conflict are merged whatever the quantile. Conflicts are
      compared in float32, and the place is computed in float32, to within
      `n * 2**-24`.
    """
    _check.fraction("tatr", quantile=quantile)
    return whole_model(
        _settled,
        survey(_upper),
        survey(_lower, quantile=quantile),
        quantile=quantile,
        scale=scale,
    )


def _upper(d: Deltas) -> p.Count:
    return p.upper_counts(_conflict(d))


def _lower(d: Deltas, upper: p.Count, *, quantile: Number) -> p.Count:
    return p.lower_counts(_conflict(d), upper, _place(upper, quantile))


def _settled(
    upper: p.Count, lower: p.Count, *, quantile: Number, scale: Number
) -> Stage:
    bound = p.order_statistics(upper, lower, _place(upper, quantile))[:, 0]
    return chain(stage(_trusted, bound=bound), stage(p.scaled, by=scale))


def _place(upper: p.Count, quantile: Number) -> Float32[Array, "1"]:
    n = p.entries(upper)
    return (jnp.asarray(quantile, n.dtype) * n)[None]


def _trusted(d: Deltas, *, bound: Float32[Array, "1"]) -> Row:
    conflict = _conflict(d)
    trusted = ~p.reaching(conflict, bound) | (conflict == 0)
    return jnp.where(trusted, p.total(d), 0)


def _conflict(d: Deltas) -> Row:
    """`sum_{i < j} |d_i| |d_j|` of each entry."""
    sizes = jnp.unstack(jnp.abs(d))
    before = accumulate(sizes[:-1], initial=jnp.zeros_like(sizes[0]))
    return reduce(jnp.add, map(jnp.multiply, before, sizes))[None]
