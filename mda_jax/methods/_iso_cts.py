"""Iso-CTS."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import Fixed, spectral, stage
from mda_jax.linalg import Subspaces, polar


def iso_cts(common: float = 0.8, scale: Number = 1.0) -> Stage:
    """Flatten the spectrum over common directions and those of every single task.

    Args:
      common: fraction of the directions taken from the sum of deltas, in [0, 1]; the
        experts share the rest. It decides shapes: another value compiles again.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Matrices and convolutions `[m, n]` are merged from
      `min(m, n)` directions; all other leaves take the mean of the deltas. Scaling
      every delta scales the result.

    Raises:
      ValueError: `common` is outside [0, 1].

    Paper:
      Marczak et al., No Task Left Behind: Isotropic Model Merging, 2025,
      https://arxiv.org/abs/2502.04959, Algorithm 2.
      Differs: no more task directions than there are in all, where the authors' code
      fails on matrices with fewer rows than experts; directions of no numerical
      weight take no part. Embeddings and heads are averaged, not flattened.
    """
    _check.within("iso_cts", 0.0, 1.0, common=common)
    matrices = stage(common_and_specific, common=Fixed(common))
    return spectral(matrices, scale)


def common_and_specific(
    d: Float[Array, "k m n"], *, common: Fixed
) -> Float[Array, "1 m n"]:
    """The isotropic merge of `iso_cts`."""
    rank = min(d.shape[1:])
    specific = round((rank - int(rank * common.value)) / len(d))
    specific = min(specific, rank // len(d))
    parts: list[Subspaces] = []
    rest, noise = d, None
    if shared := rank - specific * len(d):
        parts.append(p.leading_subspaces(p.total(d), shared))
        left = parts[0].left[0]
        inside = jnp.einsum("ms,kmn->ksn", left, d, precision="highest")
        rest = d - jnp.einsum("ms,ksn->kmn", left, inside, precision="highest")
        noise = _rounding(d)
    if specific:
        parts.append(p.leading_subspaces(rest, specific, noise))
    u = polar(jnp.concatenate([p.side_by_side(x.left) for x in parts], axis=1))
    v = polar(jnp.concatenate([p.side_by_side(x.right) for x in parts], axis=1))
    values = sum(jnp.trace(x.core, axis1=1, axis2=2).sum() for x in parts)
    return (values / rank * jnp.matmul(u, v.T, precision="highest"))[None]


def _rounding(d: Float[Array, "k m n"]) -> Float[Array, " k"]:
    """What a product with an orthonormal basis errs by, in the spectral norm."""
    d = jax.lax.stop_gradient(d)
    share = 8 * max(d.shape[1:]) ** 0.5 * float(jnp.finfo(d.dtype).eps)
    return share * jnp.linalg.norm(d, axis=(1, 2))
