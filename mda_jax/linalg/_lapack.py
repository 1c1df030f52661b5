"""Dense decompositions; on the CPU one matrix after the other.

jaxlib (0.10) spreads a batch of matrices over the same threads that execute XLA
programs and waits for them there. Two batches at once, of one program or of two
threads, can wait for each other for ever, and on hosts of more than a hundred cores
the heap is corrupted (https://github.com/jax-ml/jax/issues/39292). A single matrix
is factored where it stands, by the threads of the BLAS. Measured on two cores, a
batch takes between 0.6 and 1.4 times as long that way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from mda_jax.linalg._ops import matmul, symmetric, transpose


def _one_by_one(factor: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of matrices `[*b, m, n]`, whatever `vmap` adds to `b`."""

    def in_turn(*xs: jax.Array) -> Any:
        batch = xs[0].shape[:-2]
        flat = [x.reshape(-1, *x.shape[-2:]) for x in xs]
        results = jax.lax.map(lambda each: factor(*each), flat)
        return jax.tree.map(lambda y: y.reshape(*batch, *y.shape[1:]), results)

    def by_platform(*xs: jax.Array) -> Any:
        return jax.lax.platform_dependent(*xs, cpu=in_turn, default=factor)

    @custom_vmap
    def batched(*xs: jax.Array) -> Any:
        return factor(*xs) if xs[0].ndim == 2 else by_platform(*xs)

    @batched.def_vmap
    def batched_again(size: int, in_batched: list[bool], *xs: jax.Array) -> Any:
        each = zip(xs, in_batched, strict=True)
        results = batched(*(x if y else jnp.stack([x] * size) for x, y in each))
        return results, jax.tree.map(lambda _: True, results)

    return batched


_eigh = _one_by_one(jnp.linalg.eigh)
qr = _one_by_one(jnp.linalg.qr)
slogdet = _one_by_one(jnp.linalg.slogdet)


@_one_by_one
def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Thin; `linalg.svd` differentiates."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return u, s, vt


@_one_by_one
def solve_positive(g: jax.Array, x: jax.Array) -> jax.Array:
    """`g^-1 x` by a Cholesky factorisation; `linalg.solve_positive` differentiates."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(g), x)


@jax.custom_jvp
def eigh(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues in ascending order, and eigenvectors in columns."""
    values, v = _eigh(x)
    return values, v


@eigh.defjvp
def _eigh_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """`v^T dx v` has the change of the values on its diagonal, that of `v` beside."""
    (x,), (dx,) = primals, tangents
    values, v = eigh(x)
    inner = matmul(transpose(v), matmul(symmetric(dx), v))
    gaps = values[..., None, :] - values[..., :, None]
    beside = ~jnp.eye(x.shape[-1], dtype=bool)
    turn = jnp.where(beside, inner / jnp.where(beside, gaps, 1), 0)
    change = jnp.diagonal(inner, axis1=-2, axis2=-1)
    return (values, v), (change, matmul(v, turn))
