"""Linear merge (model soup)."""

from mda_jax import primitives as p
from mda_jax._types import Stage
from mda_jax.combine import entrywise


def linear(weights: p.Weights | None = None) -> Stage:
    """Average the experts' weights.

    Args:
      weights: share of each expert, dimensionless, any sign; divided by their sum.
        None: all alike.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Scaling every delta scales the result.

    Raises:
      ValueError: in `merge`, if there is not one weight per expert.

    Paper:
      Wortsman et al., Model soups, 2022, https://arxiv.org/abs/2203.05482, section 2,
      "uniform soup".
      Differs: weights may be unequal; a sum of weights below 1e-8 is taken as 1.
    """
    if weights is None:
        return entrywise(p.mean)
    return entrywise(p.weighted_mean, weights=p.per_expert(weights))
