"""MDA, merging with directional alignment: its projection form, reconstructed."""

from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage


def mda_project(scale: Number = 0.3) -> Stage:
    """Project the sum of deltas on the span of the experts' simplex frame.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. For matrices and convolutions `[m, n]` the
      `r = max(1, min(m, n) // k)` leading left directions of each expert become the
      nearest simplex frame of `k r` vertices, which spans `k r - 1` directions at most;
      the sum of the deltas is projected on them. All other leaves take the mean of the
      deltas. Scaling every delta scales the result. A matrix with `k r = 1` has no
      frame and is projected on its one direction.

    Raises:
      Nothing.

    Paper:
      Chen et al., From Coefficients to Directions: Rethinking Model Merging with
      Directional Alignment, 2025, https://arxiv.org/abs/2512.00391.
      A reconstruction, made without the paper's full text or code: the literal reading
      of "ETF projection". Stated by the authors: the top left singular vectors of
      every task vector are concatenated and aligned to a simplex frame, and the merged
      task vector goes through it. Ours: that it is projected on what the nearest frame
      spans, `r`, and the mean for all other leaves. Close to task arithmetic.
    """
    return spectral(stage(projected), scale)


def projected(d: Float[Array, "k m n"]) -> Float[Array, "1 m n"]:
    """The sum of the deltas, on the span of the frame of their left directions."""
    directions = p.leading_subspaces(d, p.rank_of_each(d)).left
    return p.on_frame_span(directions, p.total(d)[0])[None]
