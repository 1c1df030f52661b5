"""Model Stock."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Stage
from mda_jax.combine import stage, survey, surveyed


def model_stock(
    *,
    vectors: Callable[..., p.Axes] = p.whole,
    cosine: p.Cosine = p.mean_cosine,
) -> Stage:
    """Pull the mean of the experts towards the base, by the angle between the deltas.

    Args:
      vectors: what has an angle of its own: the whole weight (`primitives.whole`),
        every output's weights (`rows`) or every input's (`columns`).
      cosine: `[k, k, ...] -> [1, ...]`, of the angle between the deltas, from their
        inner products: the mean over all pairs, or
        `primitives.cosine_of_mean_angle`.

    Returns:
      A stage `[k, *d] -> [1, *d]`: the mean of the deltas times
      `k c / (1 + (k - 1) c)` with the cosine `c`; negative where `c` is. A delta of 0
      has cosine 0 with all others. One expert alone is kept. Scaling every delta
      scales the result.

    Raises:
      Nothing.

    Paper:
      Jang et al., Model Stock: All we need is just a few fine-tuned models, 2024,
      https://arxiv.org/abs/2403.19522, the interpolation ratio for k models.
      Differs: the paper takes all angles to be alike; where they are not, this is
      the mean of their cosines, as in mergekit, whose `filter_wise: true` is `rows`.
      fusion-bench averages the angles: `cosine=primitives.cosine_of_mean_angle`. The
      result is the base where the directions of the deltas cancel.
    """
    vectors = Partial(vectors)
    found = survey(_gram, vectors=vectors)
    return surveyed(_settled, found, vectors=vectors, cosine=Partial(cosine))


def _gram(d: Deltas, *, vectors: Partial) -> p.Gram | None:
    return p.gram_across_rows(d, vectors(d))


def _settled(gram: p.Gram | None, *, vectors: Partial, cosine: Partial) -> Stage:
    return stage(pulled_mean, gram=gram, vectors=vectors, cosine=cosine)


def pulled_mean(
    d: Deltas, *, gram: p.Gram | None, vectors: Partial, cosine: Partial
) -> Float[Array, " 1 *d"]:
    """The mean of the deltas times the interpolation ratio of each vector."""
    k = len(d)
    if k == 1:
        return d
    c = cosine(p.gram(d, vectors(d)) if gram is None else gram)
    below = 1 + (k - 1) * c
    some = below > 8 * k * float(jnp.finfo(d.dtype).eps)
    return jnp.where(some, k * c / jnp.where(some, below, 1), 0) * p.mean(d)
