"""Merging through the experts' leading singular subspaces."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax._types import Number
from mda_jax.linalg import (
    Subspaces,
    nearest_simplex_frame,
    polar,
    top_singular_subspaces,
)
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


def orthonormal(bases: Float[Array, "k p r"]) -> Float[Array, "k p r"]:
    """The nearest orthonormal columns, over all experts; columns of 0 stay 0."""
    return apart(polar(side_by_side(bases)), len(bases))


def on_one_frame(bases: Float[Array, "k m r"]) -> Float[Array, "k m r"]:
    """All experts' directions as the vertices of the nearest simplex frame."""
    return apart(simplex_aligned(side_by_side(bases)), len(bases))


def simplex_aligned(directions: Float[Array, "m c"]) -> Float[Array, "m c"]:
    """The nearest simplex frame of the columns; a single column stays as it is."""
    return directions if directions.shape[1] == 1 else nearest_simplex_frame(directions)


def on_frame_span(
    bases: Float[Array, "k m r"], x: Float[Array, "m n"]
) -> Float[Array, "m n"]:
    """A matrix, projected on what the simplex frame of all experts' directions spans.

    A single direction has no frame; the projection is on that direction.
    """
    frame = simplex_aligned(side_by_side(bases))
    vertices = frame.shape[1]
    # A frame of v vertices is tight: frame @ frame.T is v / (v - 1) times a projector.
    share = (vertices - 1) / vertices if vertices > 1 else 1.0
    inside = jnp.matmul(frame.T, x, precision="highest")
    return share * jnp.matmul(frame, inside, precision="highest")


def as_it_is(x: Array) -> Array:
    """The identity: a spectrum that is kept."""
    return x


def rank_of_each(d: Float[Array, "k m n"]) -> int:
    """Each expert's share of the `min(m, n)` directions, at least one."""
    return max(1, min(d.shape[1:]) // len(d))


_ORTHONORMAL, _RANK_OF_EACH = Partial(orthonormal), Partial(rank_of_each)
_AS_IT_IS = Partial(as_it_is)


def recombined(
    d: Float[Array, "k m n"],
    *,
    align_left: Partial,
    align_right: Partial = _ORTHONORMAL,
    rank: Partial = _RANK_OF_EACH,
    spectrum: Partial = _AS_IT_IS,
) -> Float[Array, "1 m n"]:
    """The sum of the experts' leading parts, their directions brought into order.

    Directions in which an expert does not change the base, up to rounding, and those
    to which `spectrum` gives no strength take no part.

    Args:
      d: the experts' deltas.
      align_left: `[k, m, r] -> [k, m, r]` on the left directions of all experts.
      align_right: `[k, n, r] -> [k, n, r]` on the right ones.
      rank: `[k, m, n] -> int`, how many leading directions each expert contributes.
      spectrum: `[k, r, r] -> [k, r, r]` on the experts' cores, which are diagonal.

    Returns:
      `[1, m, n]`: `sum_t U_t C_t V_t^T` of the aligned directions and the cores.
    """
    left, core, right = leading_subspaces(d, rank(d))
    core = spectrum(core)
    strong = jnp.diagonal(core, axis1=1, axis2=2)[:, None] != 0
    u, v = (
        align(jnp.where(strong, basis, 0))
        for align, basis in ((align_left, left), (align_right, right))
    )
    cores = side_by_side(jnp.matmul(u, core, precision="highest"))
    return jnp.matmul(cores, side_by_side(v).T, precision="highest")[None]


def flat_cores(core: Float[Array, "k r r"]) -> Float[Array, "k r r"]:
    """Every direction of every expert with the mean strength of all: isotropic."""
    mean = jnp.trace(core, axis1=1, axis2=2).mean() / core.shape[1]
    return mean * jnp.broadcast_to(jnp.eye(core.shape[1], dtype=core.dtype), core.shape)


def leading_energy(
    core: Float[Array, "k r r"], *, share: Number
) -> Float[Array, "k r r"]:
    """Of each expert the leading directions that hold a share of its squared norm.

    Args:
      core: diagonal, falling.
      share: in (0, 1]; one direction at least is left.
    """
    squares = jnp.diagonal(core, axis1=1, axis2=2) ** 2
    before = jnp.cumsum(squares, axis=1) - squares
    kept = before < jnp.asarray(share, core.dtype) * squares.sum(1, keepdims=True)
    return jnp.where(kept[:, None], core, 0)


def leading_subspaces(
    d: Float[Array, "k m n"], rank: int, noise: Float[Array, " k"] | None = None
) -> Subspaces:
    """What `rank` leading singular directions of each expert span.

    One expert after the other: the workspace is several times the weight.

    Args:
      d: the experts' deltas.
      rank: directions of each expert, in [1, min(m, n)].
      noise: singular values of each expert that are rounding alone, where that is more
        than its own entries show: say, of a difference.

    Returns:
      `left [k, m, r]`, `core [k, r, r]` and `right [k, n, r]` as in
      `linalg.top_singular_subspaces`. Columns are 0 in which an expert does not change
      the base, up to rounding. Derivatives hold the choice of these still.
    """
    _, m, n = d.shape
    left, core, right = jax.lax.map(partial(top_singular_subspaces, rank=rank), d)
    fixed = jax.lax.stop_gradient(core)  # a norm of 0 has no slope
    rows, columns = (jnp.linalg.norm(fixed, axis=axis) for axis in (-1, -2))
    tiny = max(m, n) * float(jnp.finfo(d.dtype).eps)
    left = _present(left, rows, tiny, noise)
    right = _present(right, columns, tiny, noise)
    return Subspaces(left, core, right)


def side_by_side(bases: Float[Array, "k p r"]) -> Float[Array, "p c"]:
    """The columns of all bases in one matrix."""
    return bases.swapaxes(0, 1).reshape(bases.shape[1], -1)


def apart(columns: Float[Array, "p c"], k: int) -> Float[Array, "k p r"]:
    """Columns that stand side by side, as one basis for each of `k` experts."""
    return columns.reshape(len(columns), k, -1).swapaxes(0, 1)


def _present(
    basis: Float[Array, "k p r"],
    sizes: Float[Array, "k r"],
    tiny: float,
    noise: Float[Array, " k"] | None,
) -> Float[Array, "k p r"]:
    """The basis, with columns of no numerical weight zeroed."""
    floor = tiny * sizes.max(-1, keepdims=True)
    if noise is not None:
        floor = jnp.maximum(floor, noise[:, None])
    return jnp.where((sizes > floor)[:, None, :], basis, 0)
