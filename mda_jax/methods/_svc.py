"""SVC, singular value calibration."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Rows, Side, Stage
from mda_jax.combine import chain, is_matrix, sided, stage, where
from mda_jax.linalg import top_singular_subspaces
from mda_jax.methods._task_arithmetic import task_arithmetic


def svc(merge: Stage | None = None, floor: Number = 0.1, scale: Number = 1.0) -> Stage:
    """Shrink the directions of a merge that several experts have in common.

    Args:
      merge: the stage to calibrate; `None` is `task_arithmetic()`.
      floor: least share of a direction that an expert is taken to have in the merge,
        dimensionless, above 0; a direction grows by at most `1 / floor`.
      scale: multiplier of the calibrated delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. In matrices and convolutions every left singular
      direction `u` of the merged delta is multiplied by
      `k / sum_t max(floor, <u^T M, u^T D_t> / |u^T D_t|^2)`; other leaves stay as
      `merge` gives them.

    Raises:
      Nothing.

    Paper:
      Singular Value Calibration, 2026, https://arxiv.org/abs/2602.05536.
      Differs: an expert without any part in a direction counts as `floor`, whatever
      the scale of the deltas, where the authors' code compares with 1e-12.
    """
    merge = task_arithmetic() if merge is None else merge
    rule = where(is_matrix, sided(calibrated, merge=merge, floor=floor), merge)
    return chain(rule, stage(p.scaled, by=scale))


def calibrated(d: Deltas, side: Side, *, merge: Stage, floor: Number) -> Rows:
    """The merged delta with its left singular directions rescaled."""
    (merged,) = p.total(merge(d, side))
    u = top_singular_subspaces(merged, min(merged.shape)).left
    along = jnp.einsum("mr,mn->rn", u, merged, precision="highest")
    experts = jnp.einsum("mr,kmn->krn", u, d, precision="highest")
    factors = _factors(along, experts, floor)[:, None]
    return jnp.matmul(u, factors * along, precision="highest")[None]


def _factors(
    along: Float[Array, "r n"], experts: Float[Array, "k r n"], floor: Number
) -> Float[Array, " r"]:
    """What each direction is multiplied by."""
    sizes = (experts * experts).sum(-1)
    inner = (along[None] * experts).sum(-1)
    shares = inner / jnp.where(sizes > 0, sizes, 1)
    return len(experts) / jnp.maximum(jnp.asarray(floor, along.dtype), shares).sum(0)
