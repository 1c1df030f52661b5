"""TSV-M."""

from jax.tree_util import Partial

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage


def tsv(scale: Number = 1.0) -> Stage:
    """Keep each expert's share of singular directions and make them orthonormal.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `[m, n]` are merged from
      the `min(m, n) // k` leading directions of each expert; all other leaves take
      the mean of the deltas. Scaling every delta scales the result.

    Raises:
      Nothing.

    Paper:
      Gargiulo et al., Task Singular Vectors, 2024, https://arxiv.org/abs/2412.00081,
      Algorithm 1 (TSV-Merge).
      Differs: an expert keeps one direction where `min(m, n) < k`, where the authors'
      code keeps none; directions of no numerical weight take no part in the
      orthogonalisation. Embeddings and heads are averaged.
    """
    matrices = stage(p.recombined, align_left=Partial(p.orthonormal))
    return spectral(matrices, scale)
