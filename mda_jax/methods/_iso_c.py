"""Iso-C."""

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage


def iso_c(scale: Number = 1.0) -> Stage:
    """Sum the experts' deltas and flatten the spectrum; average what is no matrix.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions are flattened, one polar
      factor each; all other leaves take the mean of the deltas. Scaling every delta
      scales the result.

    Raises:
      Nothing.

    Paper:
      Marczak et al., No Task Left Behind: Isotropic Model Merging, 2025,
      https://arxiv.org/abs/2502.04959, Algorithm 1.
      Differs: where the sum of deltas has not full rank, only the directions it has
      get the mean singular value; the authors' code also writes it on whatever null
      vectors the SVD returns. Embeddings and heads are averaged, not flattened.
    """
    return spectral(stage(p.flat_spectrum), scale)
