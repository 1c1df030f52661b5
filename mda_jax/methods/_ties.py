"""TIES-Merging, per tensor."""

from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Stage
from mda_jax.combine import chain, stage


def ties(density: Number = 0.2, scale: Number = 1.0) -> Stage:
    """Trim every expert, elect a sign per entry, average the experts that carry it.

    Args:
      density: fraction of entries each expert keeps, in (0, 1]. Not a percentage.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Trimming is per weight, not over the whole
      model. Scaling every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1].

    Paper:
      Yadav et al., TIES-Merging, 2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
      Differs: trims every weight by itself. Exactly `round(density * n)` entries, at
      least one, are kept: among equal magnitudes the earlier. An entry whose signs
      cancel exactly merges to 0.
    """
    _check.fraction("ties", density=density)
    trim = stage(p.keep_largest, density=density)
    return chain(trim, stage(elected_mean), stage(p.scaled, by=scale))


def elected_mean(d: Deltas) -> Float[Array, " 1 *d"]:
    """Mean over the experts that carry the sign of the sum."""
    return p.agreeing_mean(d, sign=p.sign_of_sum(d))


def elected_weighted_mean(
    d: Deltas, *, weights: Float[Array, "..."]
) -> Float[Array, " 1 *d"]:
    """Weighted mean over the experts that carry the sign of the weighted sum."""
    sign = p.nonnegative_sign_of_sum(d)
    return p.agreeing_weighted_mean(d, sign=sign, weights=weights)


def elected_sum(d: Deltas) -> Float[Array, " 1 *d"]:
    """Sum over the experts that carry the sign of the sum."""
    return p.agreeing_sum(d, sign=p.nonnegative_sign_of_sum(d))
