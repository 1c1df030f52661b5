"""Directions of features."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_rows(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length 1; a row of 0 stays 0, and has a finite derivative."""
    squares = (x * x).sum(1, keepdims=True)
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1))
