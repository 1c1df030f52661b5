"""MDA, merging with directional alignment: its frame form, reconstructed."""

from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage
from mda_jax.linalg import nearest_simplex_frame


def mda_frame(scale: Number = 1.0) -> Stage:
    """Bring the experts' leading left directions onto one simplex frame.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `[m, n]` are merged from
      the `r = max(1, min(m, n) // k)` leading directions of each expert: the `k r`
      left ones become the nearest simplex equiangular tight frame, the right ones
      their polar factor, the experts' own spectra stand between. All other leaves take
      the mean of the deltas. Scaling every delta scales the result. A matrix with
      `k r = 1` has no frame and keeps its one direction.

    Raises:
      Nothing.

    Paper:
      Chen et al., From Coefficients to Directions: Rethinking Model Merging with
      Directional Alignment, 2025, https://arxiv.org/abs/2512.00391.
      A reconstruction, made without the paper's full text or code. Stated by the
      authors: the top left singular vectors of every task vector are concatenated
      and aligned to a simplex frame by an orthogonal Procrustes step, and the merged
      task vector goes through the aligned basis. Ours: one vertex per direction (so
      `k r` vertices), signs fixed before the alignment, the right side and the
      spectrum as in TSV-M, `r`, and the mean for all other leaves. Without the frame
      this is `tsv`.
    """
    matrices = stage(p.recombined, align_left=Partial(on_one_frame))
    return spectral(matrices, scale)


def on_one_frame(bases: Float[Array, "k m r"]) -> Float[Array, "k m r"]:
    """All experts' directions as the vertices of the nearest simplex frame."""
    return p.apart(simplex_aligned(p.side_by_side(bases)), len(bases))


def simplex_aligned(directions: Float[Array, "m c"]) -> Float[Array, "m c"]:
    """The nearest simplex frame of the columns; a single column stays as it is."""
    return directions if directions.shape[1] == 1 else nearest_simplex_frame(directions)
