"""Task arithmetic."""

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, entrywise


def task_arithmetic(scale: Number = 0.3, weights: p.Weights | None = None) -> Stage:
    """Add the scaled deltas of the experts to the base.

    Args:
      scale: multiplier of every delta, dimensionless.
      weights: one more multiplier per expert, dimensionless. None: 1 for all.

    Returns:
      A stage `[k, *d] -> [k, *d]`. Scaling every delta scales the result.

    Raises:
      ValueError: in `merge`, if there is not one weight per expert.

    Paper:
      Ilharco et al., Editing Models with Task Arithmetic, 2022,
      https://arxiv.org/abs/2212.04089, section 2.
    """
    if weights is None:
        return entrywise(p.scaled, by=scale)
    shares = entrywise(p.weighted, weights=p.per_expert(weights))
    return chain(shares, entrywise(p.scaled, by=scale))
