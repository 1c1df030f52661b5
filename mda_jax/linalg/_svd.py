"""The singular value decomposition, as the yardstick of the faster kernels."""

from typing import NamedTuple

from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import transpose
from mda_jax.linalg._signs import leading_signs


class SVD(NamedTuple):
    """`left @ diag(values) @ right^T`."""

    left: Float[Array, "*b m r"]
    values: Float[Array, "*b r"]
    right: Float[Array, "*b n r"]


def svd(x: Float[Array, "*b m n"]) -> SVD:
    """Thin singular value decomposition with the signs of `top_singular_subspaces`.

    For checking: its derivative is infinite at repeated singular values, and it is
    slow. Merge methods use `polar` and `top_singular_subspaces`.

    Args:
      x: matrices.

    Returns:
      `left [*b, m, r]`, `values [*b, r]` in descending order and `right [*b, n, r]`,
      with r = min(m, n).
    """
    u, s, vt = _lapack.svd(x)
    signs = leading_signs(u)
    return SVD(u * signs, s, transpose(vt) * signs)
