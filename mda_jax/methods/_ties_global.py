"""TIES-Merging over the whole model."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Float32, Int

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Stage, WholeModel
from mda_jax.combine import chain, stage, survey, whole_model


def ties_global(
    density: Number = 0.2,
    scale: Number = 1.0,
    *,
    merged: Callable[..., Float[Array, " 1 *d"]] = p.agreeing_mean,
) -> WholeModel:
    """Trim every expert over the whole model, elect signs, average who carries them.

    Args:
      density: fraction of all entries each expert keeps, in (0, 1].
      scale: multiplier of the merged delta, dimensionless.
      merged: `(deltas, *, sign) -> row` of the trimmed deltas and the elected signs:
        `primitives.agreeing_mean`, `agreeing_sum` or `agreeing_largest`.

    Returns:
      A `WholeModel` of three surveys and a stage `[k, *d] -> [1, *d]`. An expert keeps
      its `round(density * n)` largest entries, at least one, of all `n` entries of the
      model, and those as large as the least of them. Scaling every delta scales the
      result.

    Raises:
      ValueError: `density` is outside (0, 1].

    Paper:
      Yadav et al., TIES-Merging, 2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
      An entry whose signs cancel takes the sign of the majority of all entries, as in
      the authors' code; where that is 0 as well it merges to 0.
      Differs: magnitudes are compared in float32, and the number kept is computed in
      float32, to within `n * 2**-24`. The authors' code and fusion-bench keep
      `int(density * n) + 1` entries, and count those of integer buffers in `n`.
      fusion-bench takes the sum, scaled by 0.3.
    """
    _check.fraction("ties_global", density=density)
    return whole_model(
        _settled,
        survey(_upper),
        survey(_lower, density=density),
        survey(_balance, density=density),
        density=density,
        scale=scale,
        merged=Partial(merged),
    )


def _upper(d: Deltas) -> p.Count:
    return p.upper_counts(jnp.abs(d))


def _lower(d: Deltas, upper: p.Count, *, density: Number) -> p.Count:
    return p.lower_counts(jnp.abs(d), upper, _place(upper, density))


def _balance(d: Deltas, upper: p.Count, lower: p.Count, *, density: Number) -> p.Count:
    """How many entries are elected positive, less those elected negative."""
    sign = p.sign_of_sum(_trimmed(d, cut=_cut(upper, lower, density)))
    return p.counted(jnp.sum(sign.astype(jnp.int32), dtype=jnp.int32))


def _settled(
    upper: p.Count,
    lower: p.Count,
    balance: p.Count,
    *,
    density: Number,
    scale: Number,
    merged: Partial,
) -> Stage:
    return chain(
        stage(_trimmed, cut=_cut(upper, lower, density)),
        stage(_elected, majority=p.sign_of_count(balance), merged=merged),
        stage(p.scaled, by=scale),
    )


def _place(upper: p.Count, density: Number) -> Float32[Array, "1"]:
    """Where the least entry that is kept stands in ascending order."""
    n = p.entries(upper)
    kept = jnp.round(jnp.asarray(density, n.dtype) * n)
    return (n - jnp.maximum(kept, 1))[None]


def _cut(upper: p.Count, lower: p.Count, density: Number) -> Float32[Array, " k"]:
    return p.order_statistics(upper, lower, _place(upper, density))[:, 0]


def _trimmed(d: Deltas, *, cut: Float32[Array, " k"]) -> Deltas:
    return jnp.where(p.reaching(jnp.abs(d), cut), d, 0)


def _elected(
    d: Deltas, *, majority: Int[Array, ""], merged: Partial
) -> Float[Array, " 1 *d"]:
    sign = p.sign_of_sum(d)
    return merged(d, sign=jnp.where(sign == 0, majority.astype(d.dtype), sign))
