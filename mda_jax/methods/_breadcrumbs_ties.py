"""Model Breadcrumbs, then the election and the mean of TIES."""

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, stage
from mda_jax.methods._ties import elected_mean


def breadcrumbs_ties(
    density: Number = 0.9, outliers: Number = 0.01, scale: Number = 1.0
) -> Stage:
    """Drop the largest and the smallest entries, elect signs, average who carries them.

    Args:
      density: fraction of entries each expert keeps, in (0, 1]. Not a percentage.
      outliers: fraction of the largest entries dropped, in [0, 1]; less where the rest
        would not reach `density`.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Scaling every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1], or `outliers` outside [0, 1].

    Paper:
      Davari and Belilovsky, Model Breadcrumbs, 2023,
      https://arxiv.org/abs/2312.06795, section 3, in place of the trim of Yadav et
      al., TIES-Merging, 2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
      Differs: mergekit's combination, in no paper; mergekit sums the experts that
      carry the sign. Counts and ties are those of `breadcrumbs`. An entry whose signs
      cancel exactly merges to 0.
    """
    _check.fraction("breadcrumbs_ties", density=density)
    _check.within("breadcrumbs_ties", 0.0, 1.0, outliers=outliers)
    band = stage(p.keep_band, density=density, outliers=outliers)
    return chain(band, stage(elected_mean), stage(p.scaled, by=scale))
