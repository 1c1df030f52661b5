"""MDA, merging with directional alignment: its frame form, reconstructed."""

from collections.abc import Callable

from jax.tree_util import Partial
from jaxtyping import Array

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage


def mda_frame(
    scale: Number = 1.0,
    *,
    rank: Callable[..., int] = p.rank_of_each,
    right: Callable[..., Array] = p.orthonormal,
    spectrum: Callable[..., Array] = p.as_it_is,
) -> Stage:
    """Bring the experts' leading left directions onto one simplex frame.

    Args:
      scale: multiplier of the merged delta, dimensionless.
      rank: `deltas [k, m, n] -> r`, the leading directions taken from each expert;
        default `max(1, min(m, n) // k)`.
      right: `[k, n, r] -> [k, n, r]` on the right directions: their polar factor, or
        `primitives.on_one_frame` for a simplex frame on both sides.
      spectrum: `[k, r, r] -> [k, r, r]` on the experts' diagonal cores: kept,
        `primitives.flat_cores` (isotropic), or `primitives.leading_energy` with a
        `share` (a rank by energy).

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `[m, n]` are merged from
      the `r` leading directions of each expert: the `k r` left ones become the nearest
      simplex equiangular tight frame, the right ones their polar factor, the experts'
      own spectra stand between. All other leaves take the mean of the deltas. Scaling
      every delta scales the result. A matrix with `k r = 1` has no frame and keeps its
      one direction.

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
    matrices = stage(
        p.recombined,
        align_left=Partial(p.on_one_frame),
        align_right=Partial(right),
        rank=Partial(rank),
        spectrum=Partial(spectrum),
    )
    return spectral(matrices, scale)
