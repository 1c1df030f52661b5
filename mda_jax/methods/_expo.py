"""ExPO, model extrapolation."""

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, entrywise


def expo(alpha: Number = 0.1) -> Stage:
    """Go on in the direction in which fine-tuning went.

    Args:
      alpha: length of the extrapolation, in units of the delta; 0 is the expert.

    Returns:
      A stage `[k, *d] -> [1, *d]`: `1 + alpha` times the mean of the deltas. Scaling
      every delta scales the result.

    Raises:
      Nothing.

    Paper:
      Zheng et al., Model Extrapolation Expedites Alignment, 2024,
      https://arxiv.org/abs/2404.16792.
      Differs: several experts are averaged first, as in fusion-bench, whose default
      0.1 this is; the paper searches `alpha` per model.
    """
    return chain(entrywise(p.mean), entrywise(p.scaled, by=1 + alpha))
