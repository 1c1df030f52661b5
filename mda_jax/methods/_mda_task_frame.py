"""MDA, merging with directional alignment: a frame over tasks, reconstructed."""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage
from mda_jax.linalg import polar, procrustes, top_singular_subspaces


def mda_task_frame(scale: Number = 1.0) -> Stage:
    """Match the experts' leading directions and spread each match as a simplex.

    Args:
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `[m, n]` are merged from
      the `r = max(1, min(m, n) // k)` leading directions of each expert. Their left
      bases are rotated onto a common one (Procrustes); then the i-th directions of
      the k experts become a simplex, with cosine `-1 / (k - 1)` between them,
      orthogonal to those of every other i. The right directions become their polar
      factor, the experts' own cores stand between. The result does not depend on the
      bases: any rotation inside an expert's subspace is undone by the matching. All
      other leaves take the mean of the deltas. Scaling every delta scales the result.
      One expert is kept as it is.

    Raises:
      Nothing.

    Paper:
      Chen et al., From Coefficients to Directions: Rethinking Model Merging with
      Directional Alignment, 2025, https://arxiv.org/abs/2512.00391.
      A reconstruction, made without the paper's full text or code. Stated by the
      authors: directions that correspond to each other are rotated differently in
      independently trained models, and are aligned to a simplex frame. Ours: one
      simplex over the tasks for each matched direction, the matching, `r`, the right
      side and the spectrum as in TSV-M, and the mean for all other leaves.
    """
    matrices = stage(p.recombined, align_left=Partial(spread_over_tasks))
    return spectral(matrices, scale)


def spread_over_tasks(bases: Float[Array, "k m r"]) -> Float[Array, "k m r"]:
    """The nearest bases whose matched directions stand as a simplex over experts."""
    k, _, rank = bases.shape
    if k == 1:
        return bases
    common = top_singular_subspaces(p.side_by_side(bases), rank).left
    turns = procrustes(bases, jnp.broadcast_to(common, bases.shape))
    matched = _centred(jnp.matmul(bases, turns, precision="highest"))
    spread = _centred(p.apart(polar(p.side_by_side(matched)), k))
    stretched = (k / (k - 1)) ** 0.5 * spread
    return jnp.matmul(stretched, turns.swapaxes(1, 2), precision="highest")


def _centred(bases: Float[Array, "k m r"]) -> Float[Array, "k m r"]:
    return bases - bases.mean(0, keepdims=True)
