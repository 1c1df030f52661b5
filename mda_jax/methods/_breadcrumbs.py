"""Model Breadcrumbs."""

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, stage


def breadcrumbs(
    density: Number = 0.9, outliers: Number = 0.01, scale: Number = 0.3
) -> Stage:
    """Drop the largest and the smallest entries, add the scaled deltas to the base.

    Args:
      density: fraction of entries each expert keeps, in (0, 1]. Not a percentage.
      outliers: fraction of the largest entries dropped, in [0, 1]; less where the rest
        would not reach `density`.
      scale: multiplier of every delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [k, *d]`. Scaling every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1], or `outliers` outside [0, 1].

    Paper:
      Davari and Belilovsky, Model Breadcrumbs, 2023,
      https://arxiv.org/abs/2312.06795, section 3.
      Differs: the fraction kept is given, not that of the smallest dropped; the
      defaults are those that mergekit advises. Exactly `floor(density * n)` entries of
      a weight, at least one, are kept: among equal magnitudes the earlier counts as
      the larger. mergekit calls `outliers` gamma, and may keep nothing of a small
      tensor; the authors' code counts within each row.
    """
    _check.fraction("breadcrumbs", density=density)
    _check.within("breadcrumbs", 0.0, 1.0, outliers=outliers)
    band = stage(p.keep_band, density=density, outliers=outliers)
    return chain(band, stage(p.scaled, by=scale))
