"""Orthogonal maps from one set of points to another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import (
    epsilon,
    identity_like,
    in_float32,
    matmul,
    normalised,
    safe_inverse,
    skew,
    symmetric,
    transpose,
)
from mda_jax.linalg._polar import polar


@in_float32
def procrustes(
    source: Float[Array, "*b n d"], target: Float[Array, "*b n d"]
) -> Float[Array, "*b d d"]:
    """Orthogonal `q` that minimises `||source q - target||_F`, reflections allowed.

    Args:
      source: n points in rows.
      target: the n points they should meet.

    Returns:
      `[*b, d, d]`, orthogonal. With `p` the polar factor of `source^T target`: equal
      to `p` where that has full rank. Otherwise `p` completed between its null
      spaces by the map nearest to the identity, so two empty clouds give the
      identity; directions of one null space orthogonal to the whole other are sent
      by the map nearest to a fixed random matrix. NaN for input that is not finite.
      Gradients are finite everywhere.

    Paper:
      Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966,
      https://doi.org/10.1007/BF02289451.
    """
    return _completed(polar(matmul(transpose(source), target)))


def _completed(p: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """Orthogonal matrix that agrees with the partial isometry `p` where it acts.

    Between the null spaces it is the nearest to the identity; where these have
    orthogonal directions it is the nearest to a fixed random matrix.
    """
    d = p.shape[-1]
    key = jax.random.key(0, impl="threefry2x32")
    fallback = jax.random.uniform(key, (d, d), p.dtype, minval=-1, maxval=1)
    for target in (jnp.eye(d, dtype=p.dtype), fallback):
        p = polar(p + _between_null_spaces(p, jnp.broadcast_to(target, p.shape)))
    return p


def _between_null_spaces(
    p: Float[Array, "*b d d"], x: Float[Array, "*b d d"]
) -> Float[Array, "*b d d"]:
    x = x - matmul(p, matmul(transpose(p), x))
    return x - matmul(matmul(x, transpose(p)), p)


@in_float32
def procrustes_rotation(
    source: Float[Array, "*b n d"], target: Float[Array, "*b n d"]
) -> Float[Array, "*b d d"]:
    """Rotation `q` (determinant +1) that minimises `||source q - target||_F`.

    Args:
      source: n points in rows.
      target: the n points they should meet.

    Returns:
      `[*b, d, d]`, orthogonal with determinant +1: the result of `procrustes`, if
      need be with the direction reversed that costs least, where several cost
      nothing the one farthest from the identity. Gradients are finite everywhere;
      they hold the completion between the null spaces still.

    Paper:
      Kabsch, A discussion of the solution for the best rotation, 1978,
      https://doi.org/10.1107/S0567739478001680.
    """
    return _rotation(matmul(transpose(source), target))


@jax.custom_jvp
def _rotation(x: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """Completed polar factor, reflected along its weakest direction if need be."""
    q = _completed(polar(x))
    scaled, _ = normalised(x)
    near = scaled + 64 * epsilon(x.dtype) * identity_like(x)
    _, v = _lapack.eigh(symmetric(matmul(transpose(q), near)))
    weakest = v[..., :1]
    sign, _ = _lapack.slogdet(q)
    excess = (1 - sign)[..., None, None]
    return q - excess * matmul(matmul(q, weakest), transpose(weakest))


@_rotation.defjvp
def _rotation_jvp(
    primals: tuple[Float[Array, "*b d d"]], tangents: tuple[Float[Array, "*b d d"]]
) -> tuple[Float[Array, "*b d d"], Float[Array, "*b d d"]]:
    (x,), (dx,) = primals, tangents
    r = _rotation(x)
    scaled, size = normalised(x)
    s, v = _lapack.eigh(symmetric(matmul(transpose(r), scaled)))
    pairs = s[..., :, None] + s[..., None, :]
    kept = jnp.abs(pairs) > 4 * epsilon(x.dtype) * s[..., -1:, None]
    k = matmul(matmul(transpose(v), matmul(transpose(r), dx / size)), v)
    turn = safe_inverse(pairs, kept) * skew(k)
    return r, matmul(matmul(matmul(r, v), turn), transpose(v))
