"""Simplex equiangular tight frames."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mda_jax import _check
from mda_jax.linalg._ops import in_float32
from mda_jax.linalg._polar import polar


def simplex_etf(k: int, dtype: DTypeLike = jnp.float32) -> Float[Array, "k k"]:
    """The simplex equiangular tight frame: k unit vectors, equally far apart.

    Args:
      k: number of vertices, at least 2.
      dtype: of the result.

    Returns:
      `[k, k]`, symmetric: `sqrt(k / (k - 1)) (I - 1 1^T / k)`. The columns are the
      vertices; pairs of them have cosine `-1 / (k - 1)`, all sum to 0.

    Raises:
      ValueError: `k` is below 2.

    Paper:
      Papyan, Han, Donoho, Prevalence of Neural Collapse, 2020,
      https://arxiv.org/abs/2008.08186, Definition 1 (with the identity as rotation).
    """
    _check.at_least_two("simplex_etf", k=k)
    return (k / (k - 1)) ** 0.5 * (jnp.eye(k, dtype=dtype) - 1 / k)


@in_float32
def nearest_simplex_frame(x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    """The rotated and reflected simplex frame that is nearest to the columns of `x`.

    With `E` the frame of `simplex_etf` and `A S B^T` the SVD of `x E`, it is
    `A B^T E`: the Procrustes solution. Since `E` is a multiple of the projector off
    the vector of ones, that is `sqrt(k / (k - 1))` times the polar factor of the
    centred columns.

    Args:
      x: k columns in m dimensions, k at least 2.

    Returns:
      `[*b, m, k]`. Where the centred columns have rank k - 1 (so m >= k - 1), unit
      columns with pairwise cosine `-1 / (k - 1)`. Where their rank is less, the
      frame's projection on what they span.

    Raises:
      ValueError: `x` has fewer than 2 columns.
    """
    k = x.shape[-1]
    _check.at_least_two("nearest_simplex_frame", k=k)
    # polar meets a singular matrix here: what rounding leaves along `1` goes after it
    return (k / (k - 1)) ** 0.5 * _centred(polar(_centred(x)))


def _centred(x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    return x - x.mean(axis=-1, keepdims=True)
