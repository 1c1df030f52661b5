"""MDA, merging with directional alignment: the form of ours that merges best."""

from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, is_matrix, stage, where


def mda(ridge: Number = 0.5, scale: Number = 1.8) -> Stage:
    """Keep each expert along its own directions; give all directions one strength.

    Args:
      ridge: weight of the mean delta against the experts, dimensionless, above 0.
      scale: multiplier of the merged delta of linear maps, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. For matrices and convolutions `[m, n]` the delta `X`
      that minimises
      `sum_t ||(X - D_t) G_t^(1/2)||^2 + mu ||X - mean_t D_t||^2`, with
      `G_t = D_t^T D_t / ||D_t||^2` and `mu = ridge k / n`, its directions then aligned
      to the nearest orthonormal frame: the polar factor of `X` times the mean singular
      value of `X`. That is k Gram matrices, one Cholesky solve and one polar factor, no
      decomposition. All other leaves take the mean of the deltas, without `scale`.
      Scaling every delta scales the result.

    Raises:
      Nothing.

    Paper:
      After Chen et al., From Coefficients to Directions: Rethinking Model Merging with
      Directional Alignment, 2025, https://arxiv.org/abs/2512.00391.
      A reconstruction, made without the paper's full text or code, and the freest of
      ours. Stated by the authors: directions, not coefficients, decide a merge; those
      of all experts go through one aligned basis. Ours: the directions are matched by
      least squares (`dls`), the basis is orthonormal, its spectrum flat as in `iso_c`.
      Differs: the authors align to a simplex frame. `mda_frame`, `mda_task_frame` and
      `mda_project` do; on our benchmark the simplex gained nothing in any combination
      with this method, so it has none. For two or three experts a kept spectrum is
      better than a flat one: `tsv`, `dls`. Experts of low rank, such as LoRA, stored as
      full matrices have nothing but rounding in most directions, which a flat spectrum
      raises: merge those in `primitives.core_space`.
    """
    matrices = chain(
        stage(least_squares, ridge=ridge),
        stage(p.flat_spectrum),
        stage(p.scaled, by=scale),
    )
    return where(is_matrix, matrices, stage(p.mean))


def least_squares(d: Float[Array, "k m n"], *, ridge: Number) -> Float[Array, "1 m n"]:
    """The minimiser of `mda`, its spectrum as it comes."""
    return p.directional_least_squares(d, p.mean(d), ridge)
