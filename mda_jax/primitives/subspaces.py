"""Merging through the experts' leading singular subspaces."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax.linalg import Subspaces, polar, top_singular_subspaces
from mda_jax.primitives.averages import total


def flat_spectrum(d: Float[Array, "k m n"]) -> Float[Array, "1 m n"]:
    """The sum over experts, with every singular value replaced by their mean.

    The mean counts `min(m, n)` values. Directions that no expert changes stay
    unchanged: the polar factor of a rank-deficient sum is a partial isometry.
    """
    (summed,) = total(d)
    directions = polar(summed)
    mean = (directions * summed).sum() / min(summed.shape)
    return (mean * directions)[None]


def recombined(
    d: Float[Array, "k m n"], *, align_left: Partial
) -> Float[Array, "1 m n"]:
    """The sum of the experts' leading parts, their directions brought into order.

    Every expert contributes its `rank_of_each` leading singular directions.
    The left ones of all experts, side by side, go through `align_left`; the right ones
    are made orthonormal by their polar factor. Directions in which an expert does not
    change the base, up to rounding, take no part.

    Args:
      d: the experts' deltas.
      align_left: `[k, m, r] -> [k, m, r]` on the left directions of all experts.

    Returns:
      `[1, m, n]`: `sum_t U_t C_t V_t^T` of the aligned directions and the experts'
      own cores.
    """
    left, core, right = leading_subspaces(d, rank_of_each(d))
    u, v = align_left(left), orthonormal(right)
    cores = side_by_side(jnp.matmul(u, core, precision="highest"))
    return jnp.matmul(cores, side_by_side(v).T, precision="highest")[None]


def rank_of_each(d: Float[Array, "k m n"]) -> int:
    """Each expert's share of the `min(m, n)` directions, at least one."""
    return max(1, min(d.shape[1:]) // len(d))


def orthonormal(bases: Float[Array, "k p r"]) -> Float[Array, "k p r"]:
    """The nearest orthonormal columns, over all experts; columns of 0 stay 0."""
    return apart(polar(side_by_side(bases)), len(bases))


def leading_subspaces(d: Float[Array, "k m n"], rank: int) -> Subspaces:
    """What `rank` leading singular directions of each expert span.

    One expert after the other: the workspace is several times the weight.

    Args:
      d: the experts' deltas.
      rank: directions of each expert, in [1, min(m, n)].

    Returns:
      `left [k, m, r]`, `core [k, r, r]` and `right [k, n, r]` as in
      `linalg.top_singular_subspaces`. Columns are 0 in which an expert does not change
      the base, up to rounding.
    """
    _, m, n = d.shape
    left, core, right = jax.lax.map(partial(top_singular_subspaces, rank=rank), d)
    left = _present(left, jnp.linalg.norm(core, axis=-1), max(m, n))
    right = _present(right, jnp.linalg.norm(core, axis=-2), max(m, n))
    return Subspaces(left, core, right)


def side_by_side(bases: Float[Array, "k p r"]) -> Float[Array, "p c"]:
    """The columns of all bases in one matrix."""
    return bases.swapaxes(0, 1).reshape(bases.shape[1], -1)


def apart(columns: Float[Array, "p c"], k: int) -> Float[Array, "k p r"]:
    """Columns that stand side by side, as one basis for each of `k` experts."""
    return columns.reshape(len(columns), k, -1).swapaxes(0, 1)


def _present(
    basis: Float[Array, "k p r"], sizes: Float[Array, "k r"], side: int
) -> Float[Array, "k p r"]:
    """The basis, with columns of no numerical weight zeroed."""
    floor = side * jnp.finfo(sizes.dtype).eps * sizes.max(-1, keepdims=True)
    return jnp.where((sizes > floor)[:, None, :], basis, 0)
