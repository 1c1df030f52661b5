"""Which input directions the experts use."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def input_grams(d: Float[Array, "k m n"]) -> Float[Array, "k n n"]:
    """`D^T D` of each expert over its trace: the input directions it uses; 0 for 0."""
    sizes = (d * d).sum((1, 2), keepdims=True)
    shares = d / jnp.where(sizes > 0, sizes, 1)
    return jnp.einsum("kmi,kmj->kij", shares, d, precision="highest")
