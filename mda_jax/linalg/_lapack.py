"""Dense decompositions; on the CPU one matrix after the other.

jaxlib (0.10) spreads a batch of matrices over the same threads that execute XLA
programs and waits for them there. Two batches at once, of one program or of two
threads, can wait for each other for ever, and on hosts of more than a hundred cores
the heap is corrupted (https://github.com/jax-ml/jax/issues/39292). A single matrix
is factored where it stands, by the threads of the BLAS. Measured on two cores, a
batch takes between 0.6 and 1.4 times as long that way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def _one_by_one(decompose: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of `[*b, m, n]`, whatever `vmap` adds to `b`."""

    def in_turn(x: jax.Array) -> Any:
        results = jax.lax.map(decompose, x.reshape(-1, *x.shape[-2:]))
        return jax.tree.map(lambda y: y.reshape(*x.shape[:-2], *y.shape[1:]), results)

    def by_platform(x: jax.Array) -> Any:
        return jax.lax.platform_dependent(x, cpu=in_turn, default=decompose)

    @custom_vmap
    def batched(x: jax.Array) -> Any:
        return decompose(x) if x.ndim == 2 else by_platform(x)

    @batched.def_vmap
    def batched_again(size: int, in_batched: list[bool], x: jax.Array) -> Any:
        results = batched(x)
        return results, jax.tree.map(lambda _: True, results)

    @jax.custom_jvp
    def differentiable(x: jax.Array) -> Any:
        return batched(x)

    @differentiable.defjvp
    def tangent(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        return jax.jvp(by_platform, primals, tangents)

    return differentiable


eigh = _one_by_one(jnp.linalg.eigh)
qr = _one_by_one(jnp.linalg.qr)
slogdet = _one_by_one(jnp.linalg.slogdet)
svd = _one_by_one(partial(jnp.linalg.svd, full_matrices=False))
